"""Artifacts of somebody who knows the form and writes hashes that hold: every command refuses them in one sentence."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import Result

from exaone_export.artifact.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.sidecars import MAX_SIDECAR_BYTES
from exaone_export.errors import ArtifactError
from exaone_export.runtime.text import chat_templates
from exaone_export.terminal_text import escape
from tests.cli.test_cli import run
from tests.conftest import TINY
from tests.manifests import edit_manifest, put
from tests.watched import peak, reset_peak, unread

pytestmark = pytest.mark.hostile

COMMANDS = ("generate", "parity", "parity --prompt", "eval", "bench", "inspect", "build", "sign", "verify", "doctor")
MOST_MEMORY = 64 << 20


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    """One that every command takes: engines are built of it, and its graph runs on the CPU."""
    return export_artifact(TINY, "tensorrt-rtx", max_length=512, precision="float32")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = tmp_path_factory.mktemp("key") / "key.pem"
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.touch(0o600)
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(encoding, form, serialization.NoEncryption()))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text('{"text": "hello there"}\n')
    return path


@pytest.fixture
def hostile(artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(artifact, tmp_path / "hostile")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("a key of the user's")
    return folder


def call(command: str, artifact: Path, key: Path, data: Path) -> Result:
    arguments: dict[str, tuple[Any, ...]] = {
        "generate": (artifact, "-p", "hi", "--max-new-tokens", "1"),
        "parity": (artifact, TINY, "--length", "4", "--tokens", "1"),
        "parity --prompt": (artifact, TINY, "--prompt", "hi", "--tokens", "1"),
        "eval": (artifact, TINY, "--data", data, "--no-generate"),
        "bench": (artifact, "--prompt", "4", "--new", "2", "--depth", "0", "--batch", "1", "--repetitions", "1"),
        "build": (artifact, artifact.parent / "engine"),
        "sign": (artifact, "--key", key),
    }
    return run(command.split()[0], *arguments.get(command, (artifact,)))


@pytest.fixture(scope="module", autouse=True)
def _warm(artifact: Path, key: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a command loads before it looks at an artifact is no memory that the artifact has cost."""
    copy = shutil.copytree(artifact, tmp_path_factory.mktemp("warm") / "artifact")
    for command in ("inspect", "verify", "doctor", "generate", "sign"):
        result = call(command, copy, key, data)
        assert result.exit_code == 0, result.output
    for command in COMMANDS:
        call(command, tmp_path_factory.mktemp("none"), key, data)


# The manifest


def _files(**records: Any) -> Callable[[Path, Path], None]:
    return lambda folder, _: edit_manifest(folder, lambda manifest: manifest["files"].update(records))


def _named(name: Callable[[Path], str]) -> Callable[[Path, Path], None]:
    return lambda folder, outside: _files(**{name(outside): {"sha256": "0" * 64, "size": 1}})(folder, outside)


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    return lambda folder, _: edit_manifest(folder, change)


def _raw(data: bytes) -> Callable[[Path, Path], None]:
    def write(folder: Path, _: Path) -> None:
        (folder / MANIFEST_NAME).write_bytes(data)

    return write


def _large_manifest(folder: Path, _: Path) -> None:
    os.truncate(folder / MANIFEST_NAME, 1 << 40)


# Files


def _link(name: str) -> Callable[[Path, Path], None]:
    def link(folder: Path, outside: Path) -> None:
        (folder / name).replace(outside / name)
        (folder / name).symlink_to(outside / name)

    return link


def _hard_link(folder: Path, outside: Path) -> None:
    os.link(folder / "model.onnx.data", outside / "weights")


def _device(folder: Path, _: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")


def _fifo(name: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, _: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make


def _socket(folder: Path, _: Path) -> None:
    path = folder / "chat_template.jinja"
    path.unlink()
    here = Path.cwd()
    os.chdir(folder)  # A socket's path may be 107 bytes long.
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _folder(folder: Path, _: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def _sparse_tokenizer(folder: Path, _: Path) -> None:
    os.truncate(folder / "tokenizer.json", 1 << 40)
    edit_manifest(folder, lambda manifest: manifest["files"]["tokenizer.json"].update(size=1 << 40))


def _unlisted(name: str) -> Callable[[Path, Path], None]:
    def write(folder: Path, outside: Path) -> None:
        edit_manifest(folder, lambda manifest: manifest["files"].pop(name, None))
        (folder / name).write_text(json.dumps({"tokenizer_file": str(outside / "secret")}))

    return write


# Content


def _json(name: str, change: Callable[[dict[str, Any], Path], Any]) -> Callable[[Path, Path], None]:
    def edit(folder: Path, outside: Path) -> None:
        content = json.loads((folder / name).read_bytes())
        change(content, outside)
        put(folder, name, json.dumps(content).encode())

    return edit


def _without_tokenizer(folder: Path, outside: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["files"].pop("tokenizer.json"))
    (folder / "tokenizer.json").unlink()
    config = {"tokenizer_class": "GPT2Tokenizer", "merges": str(outside / "secret")}
    put(folder, "tokenizer_config.json", json.dumps(config).encode())


def _graph(change: Callable[[onnx.ModelProto, Path], Any]) -> Callable[[Path, Path], None]:
    def edit(folder: Path, outside: Path) -> None:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        change(model, outside)
        put(folder, "model.onnx", model.SerializeToString())

    return edit


def _external(tensor: onnx.TensorProto, **entries: str) -> None:
    kept = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    tensor.external_data.extend(onnx.StringStringEntryProto(key=name, value=value) for name, value in kept.items())
    tensor.data_location = onnx.TensorProto.EXTERNAL


def _first_external(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


def _in_attribute(model: onnx.ModelProto, outside: Path) -> None:
    """A constant's tensor, where loaders that look at initializers alone do not look."""
    node = next(node for node in model.graph.node if node.op_type == "Constant")
    tensor = onnx.TensorProto(name="hidden", data_type=1, dims=[1])
    _external(tensor, location=str(outside / "secret"), offset="0", length="4")
    del node.attribute[:]
    node.attribute.append(onnx.helper.make_attribute("value", tensor))


def _misnamed(folder: Path, _: Path) -> None:
    """Weights in a file that nobody hashed: a name that is not UTF-8 reads like that of a file which was."""
    name = "model.\ufffdnnx.data"
    put(folder, name, (folder / "model.onnx.data").read_bytes())
    (folder / "model.onnx.data").rename(folder / os.fsdecode(b"model.\xffnnx.data"))
    edit_manifest(folder, lambda manifest: manifest["files"].pop("model.onnx.data"))
    data = (folder / "model.onnx").read_bytes().replace(b"model.onnx.data", b"model.\xffnnx.data")
    put(folder, "model.onnx", data)


def _node(domain: str, operator: str) -> Callable[[onnx.ModelProto, Path], None]:
    def add(model: onnx.ModelProto, _: Path) -> None:
        model.graph.node.append(onnx.helper.make_node(operator, [], ["unused"], domain=domain))

    return add


def _profiled(model: onnx.ModelProto, _: Path) -> None:
    onnx.helper.set_model_props(model, {"ort_config": json.dumps({"session_options": {"enable_profiling": 1}})})


HOSTILE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a name that climbs": (_named(lambda _: "../outside/secret"), "is not the name of a file of the artifact"),
    "an absolute name": (_named(lambda outside: str(outside / "secret")), "is not the name of a file of the artifact"),
    "a name of another system": (_named(lambda _: "..\\outside\\secret"), "is not the name of a file of the artifact"),
    "a name with a NUL": (_named(lambda _: "config.json\0"), "is not the name of a file of the artifact"),
    "a manifest nested without end": (_raw(b'{"a":' * 100_000), "is nested deeper than 32 levels"),
    "a manifest of a terabyte": (_large_manifest, f"and at most {MAX_MANIFEST_BYTES} are read"),
    "a manifest that two programs read differently": (_raw(b'{"a": 1, "a": 2}'), "gives the key 'a' twice"),
    "a manifest that is a link": (_link(MANIFEST_NAME), "is a link, not a file of the artifact"),
    "a manifest that is a pipe": (_fifo(MANIFEST_NAME), "is not a regular file"),
    "a library in the manifest": (_manifest(lambda m: m.update(library="evil.so")), "has an unknown key 'library'"),
    "a module as engine": (
        _manifest(lambda m: m.update(engine={"flavour": "os"}, files={**m["files"], "model.engine": {}})),
        "has no key 'files[...].sha256'",
    ),
    "a billion layers": (
        _manifest(lambda m: m["model"].update(num_hidden_layers=10**9)),
        "does not describe a valid model: ",
    ),
    "caches of a terabyte": (
        _manifest(lambda m: m["cache"].update(max_length=1 << 40, capacities=[1 << 40] * 8)),
        "describes caches that are not its model's",
    ),
    "caches of 2^31 rows for a model that claims as many": (
        _manifest(
            lambda m: (
                m["model"].update(max_position_embeddings=1 << 31),
                m["cache"].update(
                    max_length=1 << 31,
                    capacities=[1 << 31] * len(m["cache"]["windows"]),
                    headrooms=[0] * len(m["cache"]["windows"]),
                ),
            )
        ),
        "describes caches that are not its model's",
    ),
    "a target of its own": (_manifest(lambda m: m.update(target="../x")), "has the target '../x', and this program"),
    "a config that is a link": (_link("config.json"), "is a link or a special file"),
    "weights that are a link": (_link("model.onnx.data"), "is a link or a special file"),
    "weights that are a hard link": (_hard_link, "is a hard link that shares its content"),
    "a tokenizer that is a device": (_device, "is a link or a special file"),
    "a tokenizer that is a pipe": (_fifo("tokenizer.json"), "is a link or a special file"),
    "a template that is a socket": (_socket, "is a link or a special file"),
    "a config that is a folder": (_folder, "is a link or a special file"),
    "a tokenizer of a terabyte": (_sparse_tokenizer, f"and at most {MAX_SIDECAR_BYTES} are read"),
    "a tokenizer config that nobody hashed": (
        _unlisted("tokenizer_config.json"),
        "holds 'tokenizer_config.json', which the manifest does not list and which would be read",
    ),
    "an adapter that nobody hashed": (
        _unlisted("adapter_config.json"),
        "holds 'adapter_config.json', which the manifest does not list",
    ),
    "code in the config": (
        _json("config.json", lambda c, _: c.update(auto_map={"AutoConfig": "evil.Config"})),
        "names Python code in auto_map, which is never run",
    ),
    "kernels of a repository": (
        _json("config.json", lambda c, _: c.update(attn_implementation="someone/kernels")),
        "asks for 'someone/kernels' as its attn_implementation, which is code from elsewhere",
    ),
    "code in the tokenizer config": (
        _json("tokenizer_config.json", lambda c, _: c.update(auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})),
        "names Python code in auto_map, which is never run",
    ),
    "a path in the tokenizer config": (
        _json("tokenizer_config.json", lambda c, outside: c.update(tokenizer_file=str(outside / "secret"))),
        "names a file in tokenizer_file, and only those beside it are read",
    ),
    "a vocabulary elsewhere": (
        _json("tokenizer_config.json", lambda c, outside: c.update(vocab=str(outside / "secret"))),
        "has text in the key 'vocab', which is not known here and could name a file",
    ),
    "a path in a list of the tokenizer config": (
        _json("tokenizer_config.json", lambda c, outside: c.update(init_inputs=[{"a": str(outside / "secret")}])),
        "has text in the key 'init_inputs', which is not known here and could name a file",
    ),
    "a vocabulary elsewhere, without a tokenizer": (
        _without_tokenizer,
        "has text in the key 'merges', which is not known here and could name a file",
    ),
    "a tokenizer class that calls programs": (
        _json("tokenizer_config.json", lambda c, _: c.update(tokenizer_class="BertJapaneseTokenizer")),
        "asks for the tokenizer class 'BertJapaneseTokenizer'",
    ),
    "a million beams": (_json("generation_config.json", lambda c, _: c.update(num_beams=10**6)), "1 to 64 may be"),
    "weights in a file above": (
        _graph(lambda m, _: _external(_first_external(m), location="../outside/secret")),
        "keeps a tensor in '../outside/secret', which is not a file of the artifact",
    ),
    "weights at an absolute path": (
        _graph(lambda m, outside: _external(_first_external(m), location=str(outside / "secret"))),
        "which is not a file of the artifact",
    ),
    "weights beyond the end": (
        _graph(lambda m, _: _external(_first_external(m), offset=str(1 << 50))),
        "keeps a tensor beyond the end of model.onnx.data",
    ),
    "weights at no number": (
        _graph(lambda m, _: _external(_first_external(m), length="-1")),
        "keeps a tensor beyond the end of model.onnx.data",
    ),
    "weights at a name that is not UTF-8": (
        _misnamed,
        r"keeps a tensor in 'model.\udcffnnx.data', which is not a file of the artifact",
    ),
    "a constant in another file": (_graph(_in_attribute), "which is not a file of the artifact"),
    "a node that loads a binary": (_graph(_node("com.microsoft", "EPContext")), "has a node of 'com.microsoft::EPCo"),
    "settings of ONNX Runtime": (_graph(_profiled), "has the metadata 'ort_config', which no export writes"),
    "a node of a library": (_graph(_node("evil.ops", "Run")), "has a node of 'evil.ops::Run', which no export writes"),
    "a loop without end": (_graph(_node("", "Loop")), "has a node of 'Loop', which no export writes"),
}


def test_the_watch_sees_what_is_read(outside: Path) -> None:
    with pytest.raises(AssertionError, match="read outside of the folder"), unread(outside):
        (outside / "secret").read_bytes()


@pytest.mark.parametrize("name", HOSTILE)
def test_every_command_refuses(name: str, hostile: Path, outside: Path, key: Path, data: Path) -> None:
    change, message = HOSTILE[name]
    change(hostile, outside)
    before = sorted(path.name for path in hostile.parent.iterdir())
    for command in COMMANDS:
        idle = reset_peak()
        with unread(outside):
            result = call(command, hostile, key, data)
        assert peak() - idle < MOST_MEMORY, command
        refused(result, message, command)
        assert sorted(path.name for path in hostile.parent.iterdir()) == before, command


def refused(result: Result, message: str, command: str) -> None:
    """One sentence, typed, and an exit status of its kind."""
    assert result.exit_code in (1, 2), (command, result.output)
    assert isinstance(result.exception, SystemExit), (command, result.exception)
    assert message in (result.stdout if command == "doctor" else result.stderr), (command, result.output)
    assert "Traceback" not in result.output
    assert "defect" not in result.output
    if command != "doctor":
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: ") and last.endswith("."), last
        assert message in last
        assert result.stdout == ""


@pytest.mark.parametrize("name", ["generate", "inspect", "build", "bench"])
def test_a_graph_that_only_some_programs_can_read(name: str, hostile: Path, key: Path, data: Path) -> None:
    """A field of a kind that is given up: some readers skip it, so nobody is let in behind it."""
    put(hostile, "model.onnx", b"\x0b\x0c" + (hostile / "model.onnx").read_bytes())
    refused(
        call(name, hostile, key, data),
        "is not an ONNX graph that an export writes: it has a field of wire type 3",
        name,
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "did not end within 1 sec"),
        ("{{ 'a' * 10 ** 9 }}", "needs more than 64 MiB"),
        ("{% include 'config.json' %}", "no loader for this environment specified"),
    ],
)
def test_a_template_that_does_not_end(
    template: str, message: str, hostile: Path, key: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a program, so it is found out when it is run; commands that write no prompt do not run it."""
    put(hostile, "chat_template.jinja", template.encode())
    templates = chat_templates.Templates(seconds=1)
    monkeypatch.setattr(chat_templates, "_shared", templates)
    idle = reset_peak()
    try:
        result = call("generate", hostile, key, data)
    finally:
        templates.close()
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert peak() - idle < MOST_MEMORY + (64 << 20)  # The session of a tiny model is open.


GENERATION: tuple[dict[str, Any], ...] = (
    {"num_beams": 2, "num_return_sequences": 3},
    {"num_beams": "2", "top_k": [1]},
    {"stop_strings": ["a", 1], "eos_token_id": {"1": 2}},
    {"stop_strings": ["\ud800", "\u0378" * 999]},
    {"eos_token_id": [2**63, -1], "pad_token_id": 2**31, "bos_token_id": -5},
    {"bad_words_ids": [[10**9], [], [-1]], "suppress_tokens": [2**40], "begin_suppress_tokens": list(range(900))},
    {"sequence_bias": [[[0], 1e300], [[10**9], 1.0]], "forced_eos_token_id": 10**6},
    {"bad_words_ids": [[token] for token in range(900)], "renormalize_logits": True},
    {"watermarking_config": {"greenlist_ratio": 9, "bias": 1e300, "\x1b[2J": 1}, "guidance_scale": 1e300},
    {"max_length": 10**40, "min_length": 2**63, "max_new_tokens": -1, "max_time": 1e-300},
    {"temperature": 5e-324, "do_sample": True, "top_p": 1e-300, "min_p": 1, "typical_p": 1e-300, "top_h": 5e-324},
    {
        "cache_implementation": "/dev/zero",
        "assistant_early_exit": 1,
        "prompt_lookup_num_tokens": 2**31,
        "dola_layers": "x",
    },
    {"repetition_penalty": 1e-40, "length_penalty": -1e29, "exponential_decay_length_penalty": [0, 1e29]},
    {"constraints": [1], "force_words_ids": [[1]], "num_beam_groups": 7, "penalty_alpha": 1, "unknown": {"a": ["/"]}},
)


def test_defaults_of_a_generation_config_end_in_an_answer_or_in_a_sentence(
    hostile: Path, record_property: Callable[[str, object], None]
) -> None:
    counts = {0: 0, 1: 0, 2: 0}
    for content in GENERATION:
        put(hostile, "generation_config.json", json.dumps(content).encode())
        result = run("generate", hostile, "-p", "hi", "--max-new-tokens", "2")
        assert result.exit_code in counts and "defect" not in result.output, (content, result.output)
        assert escape(result.stderr) == result.stderr
        counts[result.exit_code] += 1
    assert counts[0] >= len(GENERATION) // 2
    record_property(
        "outcomes",
        f"hostile generation configs, {len(GENERATION)} of them: {counts[0]} answered without what is wrong, "
        f"{counts[1] + counts[2]} refused, 0 other",
    )


def test_200_flipped_bits_and_20_truncations_are_refused(hostile: Path) -> None:
    chance = random.Random(5)
    names = sorted(path.name for path in hostile.iterdir())
    for _ in range(200):
        path = hostile / chance.choice(names)
        original = path.read_bytes()
        data = bytearray(original)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            Artifact.open(hostile)
        assert str(caught.value).endswith(".")
        path.write_bytes(original)
    for _ in range(20):
        path = hostile / chance.choice(names)
        original = path.read_bytes()
        os.truncate(path, chance.randrange(len(original)))
        with pytest.raises(ArtifactError):
            Artifact.open(hostile)
        path.write_bytes(original)
    Artifact.open(hostile)
