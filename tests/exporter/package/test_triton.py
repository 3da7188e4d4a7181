"""A model repository for Triton: its `model.py` runs against a stub of the backend's API, not in a server."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.main import cli
from exaone_export.errors import ArtifactError, TargetError, UnsupportedOptionError
from exaone_export.exporter.package.triton import package_for_triton
from exaone_export.runtime.runner.runner import Runner
from tests.conftest import TINY

FINAL = 1


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> np.ndarray:
        return self.values


class Sender:
    def __init__(self) -> None:
        self.responses: list[Any] = []
        self.ended, self.began, self.cancelled = threading.Event(), threading.Event(), False

    def send(self, response: Any = None, flags: int = 0) -> None:
        assert not self.ended.is_set()
        self.responses.append(response)
        self.began.set()
        if flags == FINAL:
            self.ended.set()

    def is_cancelled(self) -> bool:
        return self.cancelled

    def outputs(self) -> list[dict[str, np.ndarray]]:
        assert self.ended.wait(60)
        return [{each.name: each.values for each in one.output_tensors} for one in self.responses]

    def text(self) -> str:
        return b"".join(one["text"][0] for one in self.outputs()).decode()

    def reason(self) -> str:
        return str(self.outputs()[-1]["finish_reason"][0].decode())


class Request:
    def __init__(self, **inputs: Any) -> None:
        self.sender = Sender()
        self.inputs = {name: Tensor(name, value) for name, value in inputs.items()}

    def get_response_sender(self) -> Sender:
        return self.sender


def text(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], dtype=np.object_)


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu")


@pytest.fixture(scope="module")
def repository(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_for_triton(artifact, tmp_path_factory.mktemp("triton") / "repository", name="tiny", threads=1)


@pytest.fixture(scope="module")
def model(repository: Path) -> Iterator[Any]:
    stub = ModuleType("triton_python_backend_utils")
    stub.__dict__.update(
        Tensor=Tensor,
        TritonError=str,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        InferenceResponse=lambda output_tensors=(), error=None: SimpleNamespace(
            output_tensors=output_tensors, error=error
        ),
        get_input_tensor_by_name=lambda request, name: request.inputs.get(name),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", stub)
        spec = importlib.util.spec_from_file_location("tiny_model", repository / "tiny" / "1" / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = {"parameters": {"threads": {"string_value": "1"}}}
        place = {"model_repository": str(repository / "tiny"), "model_version": "1"}
        model.initialize({"model_config": json.dumps(config), **place})
        yield model
        model.finalize()


def ask(model: Any, **inputs: Any) -> Sender:
    request = Request(**inputs)
    assert model.execute([request]) is None
    return request.sender


def test_the_repository_is_whole_and_its_artifact_opens(repository: Path, artifact: Path) -> None:
    assert {path.name for path in (repository / "tiny").iterdir()} == {"config.pbtxt", "1"}
    assert Artifact.open(repository / "tiny" / "1" / "artifact").manifest == Artifact.open(artifact).manifest
    assert not any(path.is_symlink() for path in repository.rglob("*"))


def test_only_what_the_trusted_key_has_signed_is_packed(artifact: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pub.pem"
    public = Ed25519PrivateKey.generate().public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    result = CliRunner().invoke(cli, ["package", str(artifact), str(tmp_path / "out"), "--verify", str(key)])
    assert result.exit_code == 1 and "has no signature" in result.stderr
    assert list(tmp_path.iterdir()) == [key]


def test_the_next_command_is_one_for_a_shell(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "two words"
    result = CliRunner().invoke(cli, ["package", str(artifact), str(out)])
    assert result.stdout == f"wrote  {out}\nnext   tritonserver --model-repository '{out}'\n"


def test_the_configuration_is_one_that_triton_parses(repository: Path) -> None:
    protobuf = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    from google.protobuf import text_format

    config = text_format.Parse((repository / "tiny" / "config.pbtxt").read_text(), protobuf.ModelConfig())
    assert config.name == "tiny" and config.backend == "python" and config.model_transaction_policy.decoupled
    assert [each.name for each in config.output] == ["text", "finish_reason", "tokens"]
    assert all(each.optional for each in config.input)


def test_an_answer_is_streamed(model: Any, artifact: Path) -> None:
    sender = ask(model, prompt=text("Hello"), max_new_tokens=np.array([8], dtype=np.int32))
    with Runner.open(artifact, threads=1) as runner:
        answer = runner.generate("Hello", max_new_tokens=8)
        assert sender.text() == answer.read()
    outputs = sender.outputs()
    assert len(outputs) > 2
    assert np.concatenate([one["tokens"] for one in outputs]).tolist() == answer.tokens
    assert [one["finish_reason"][0] for one in outputs[:-1]] == [b""] * (len(outputs) - 1)
    assert sender.reason() == answer.finish_reason


def test_messages_pass_the_chat_template(model: Any) -> None:
    sender = ask(model, messages=text(json.dumps([{"role": "user", "content": "What is 27 + 45?"}])))
    assert "72" in sender.text()
    assert sender.reason() == "stop"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "either prompt or messages"),
        ({"prompt": text("a"), "messages": text("[]")}, "either prompt or messages"),
        ({"messages": text("{")}, "messages is not JSON"),
        ({"messages": text("[1]")}, "messages is not a list of objects"),
        ({"prompt": text("a", "b")}, "prompt has 2 values"),
        ({"prompt": np.array([b"\xff"], dtype=np.object_)}, "prompt is not UTF-8"),
        ({"prompt": text("a"), "top_p": np.array([2.0], dtype=np.float32)}, "top_p is 2.0"),
    ],
)
def test_a_wrong_request_ends_in_a_sentence(model: Any, inputs: dict[str, Any], said: str) -> None:
    sender = ask(model, **inputs)
    assert sender.ended.wait(60)
    assert len(sender.responses) == 1 and said in sender.responses[0].error


def test_a_cancelled_request_ends_and_lets_the_next_run(model: Any) -> None:
    sender = ask(model, prompt=text("Hello"), stop=text("\0never"), max_new_tokens=np.array([200], dtype=np.int32))
    sender.cancelled = True
    assert sender.ended.wait(60)
    assert sender.reason() == "cancelled"
    assert ask(model, prompt=text("Hello"), max_new_tokens=np.array([2], dtype=np.int32)).reason() == "length"


def test_requests_at_once_are_all_answered_alike(model: Any) -> None:
    requests = [Request(prompt=text("Hello"), max_new_tokens=np.array([8], dtype=np.int32)) for _ in range(4)]
    model.execute(requests)
    assert len({request.sender.text() for request in requests}) == 1


def test_an_artifact_for_a_gpu_is_refused(export_artifact: Callable[..., Path], tmp_path: Path) -> None:
    folder = export_artifact(TINY, "ort-cuda", max_length=256, precision="float16")
    with pytest.raises(TargetError, match="is for ort-cuda, and a model repository runs on the CPU; export with"):
        package_for_triton(folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_packaged_writes_nothing(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOptionError, match="not a model's name"):
        package_for_triton(artifact, tmp_path / "out", name="a/b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(ArtifactError, match="not empty"):
        package_for_triton(artifact, tmp_path / "full")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]
