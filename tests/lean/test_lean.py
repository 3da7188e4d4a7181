"""What runs without the extra ``export``, and the sentence of everything that needs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TINY = Path(__file__).parents[2] / "examples" / "exaone4-tiny"
ASKED, ANSWERED = "Who are you?", "I am a tiny EXAONE 4, trained for tests."
INSTALL = "pip install 'exaone-export[export]'"
MISSING = "torch, transformers, onnx, onnx_ir, onnxscript and safetensors, which are not installed"

# By the feature that the sentence names, the command; ARTIFACT and CLASSIFIER are replaced.
NEEDS_THE_EXTRA = {
    "export": ("export", TINY, "out"),
    "export of a dry run": ("export", TINY, "out", "--dry-run"),
    "calibrate": ("calibrate", TINY, "scales.safetensors", "--data", TINY / "config.json"),
    "build": ("build", "ARTIFACT", "out"),
    "build of a dry run": ("build", "ARTIFACT", "out", "--dry-run"),
    "parity": ("parity", "ARTIFACT", TINY),
    "eval": ("eval", "ARTIFACT", TINY, "--data", TINY / "config.json"),
    "predict": ("predict", "CLASSIFIER", "--text", "Hello", "--output", "out.jsonl"),
    "bench": ("bench", "ARTIFACT"),
    "random-checkpoint": ("random-checkpoint", "out"),
    "--num-beams": ("generate", "ARTIFACT", "-p", ASKED, "--num-beams", "2"),
}
WORKS = {"generate", "chat", "serve", "batch", "plan", "sign", "verify", "doctor", "inspect", "push", "package"}

LOADED = (
    "assert not {'torch', 'transformers', 'onnx', 'onnx_ir'} & {name for name, found in sys.modules.items() if found}"
)


@pytest.mark.parametrize("feature", NEEDS_THE_EXTRA)
def test_what_needs_the_extra_says_so_and_writes_nothing(
    feature: str, command: Run, artifact: Path, classifier: Path, tmp_path: Path
) -> None:
    given = {"ARTIFACT": artifact, "CLASSIFIER": classifier}
    result = command(*(given.get(str(word), word) for word in NEEDS_THE_EXTRA[feature]))
    assert result.stderr == f"error: {feature.split(' of ')[0]} needs {MISSING}; run: {INSTALL}.\n"
    assert (result.stdout, result.returncode) == ("", 1)
    assert list(tmp_path.iterdir()) == []


def test_help_needs_nothing_and_every_command_is_tested_here(python: Run, tmp_path: Path) -> None:
    code = f"""
import sys
from exaone_export.cli.main import COMMANDS, cli
for words in ([], *([name] for name in COMMANDS)):
    cli([*words, "--help"], standalone_mode=False)
assert not {{"onnxruntime", "rich", "cryptography", "huggingface_hub"}} & {{*sys.modules}}
{LOADED}
print("commands", *COMMANDS)
"""
    result = python("-c", code, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    *_, last = result.stdout.splitlines()
    assert {*last.split()[1:]} - {words[0] for words in NEEDS_THE_EXTRA.values()} <= WORKS


def test_generate(command: Run, artifact: Path) -> None:
    result = command("generate", artifact, "-p", ASKED, "--temperature", "0", "--threads", "1")
    assert (result.stdout, result.returncode) == (f"{ANSWERED}\n", 0), result.stderr


def test_chat(command: Run, artifact: Path) -> None:
    result = command("chat", artifact, "--threads", "1", stdin=f"{ASKED}\n{ASKED}\n")
    assert (result.stdout, result.returncode) == (f"{ANSWERED}\n{ANSWERED}\n", 0), result.stderr


def test_a_runner_a_chat_and_the_names_that_need_the_extra(python: Run, artifact: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import exaone_export
from exaone_export import Chat, Runner
from exaone_export.errors import MissingExtraError
with Runner.open({str(artifact)!r}, threads=1) as runner:
    print("".join(Chat(runner).send({ASKED!r})))
    assert "".join(runner.generate("Hello", max_new_tokens=3))
{LOADED}
for name in exaone_export.__all__:
    try:
        getattr(exaone_export, name)
    except MissingExtraError as error:
        assert str(error) == f"exaone_export.{{name}} needs {MISSING}; run: " {INSTALL + "."!r}, error
        assert isinstance(error, ImportError) and isinstance(error.__cause__, ImportError)
        print(name)
"""
    result = python("-c", code, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    answer, *needing = result.stdout.splitlines()
    assert answer == ANSWERED
    assert {"export", "calibrate", "build_engine", "ExaoneForCausalLM", "load_tokenizer"} <= {*needing}
    assert not {"Chat", "Runner"} & {*needing}


def test_doctor_runs_and_says_what_the_extra_is_for(command: Run, artifact: Path) -> None:
    result = command("doctor", artifact, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["verdict"].startswith(f"{artifact} runs here: ort-cpu, ONNX Runtime ")
    [extra] = [finding for finding in report["packages"] if finding["name"] == "extra export"]
    assert (extra["ok"], extra["fix"]) == (None, INSTALL)
    assert extra["detail"].startswith("not installed; needed for export, calibrate, build, ")
    torch = next(finding for finding in report["packages"] if finding["name"] == "torch")
    assert (torch["ok"], torch["detail"]) == (None, "not installed (optional, extra export)")
    assert [finding["name"] for finding in report["packages"]].count("exaone-export") == 0
    first = command("doctor").stdout.splitlines()[0]
    assert first.startswith("runs here: onnx, ort-cpu; ") and first.endswith(f"; to export, run: {INSTALL}")


def test_inspect_shows_the_artifact_and_what_it_left_out(command: Run, artifact: Path) -> None:
    result = command("inspect", artifact, "--json")
    assert json.loads(result.stdout)["target"] == "ort-cpu"
    why = f"verifying the graph needs {MISSING}; run: {INSTALL}."
    assert (result.stderr, result.returncode) == (f"warning: the graph was not verified: {why}\n", 0)


def test_plan_sign_and_verify(command: Run, artifact: Path, tmp_path: Path) -> None:
    for words in (["1.2b", "--precision", "int4"], [TINY]):
        result = command("plan", *words, "--json")
        assert (result.returncode, result.stderr) == (0, "") and json.loads(result.stdout)
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, signed = Ed25519PrivateKey.generate(), shutil.copytree(artifact, tmp_path / "signed")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").touch(0o600)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*form))
    public = key.public_key().public_bytes(form[0], serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub.pem").write_bytes(public)
    assert command("sign", signed, "--key", "key.pem").returncode == 0
    result = command("verify", signed, "--key", "key.pub.pem")
    assert (result.returncode, result.stderr) == (0, "") and "match their hashes; signed by key" in result.stdout


@pytest.mark.parametrize(
    "broken", ['raise OSError("libtorch.so: cannot open it")', "import gone_dependency", "import torch._C"]
)
def test_a_package_that_is_installed_and_broken_is_not_called_missing(broken: str, python: Run, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(broken)
    code = (
        f"import sys; sys.modules.pop('torch', None); sys.path.insert(0, {str(tmp_path)!r})\n"
        "from exaone_export.cli.main import cli\ncli(['random-checkpoint', 'out'])"
    )
    result = python("-c", code, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert any(word in result.stderr for word in ("libtorch.so", "gone_dependency", "torch._C"))
    assert "which are not installed" not in result.stderr and "defect" not in result.stderr
