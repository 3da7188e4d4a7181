"""What `generate` refuses, on either path, before the weights are read and a session is opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.main import cli
from tests.conftest import TINY
from tests.manifests import put

PROMPT = ("-p", "What is 38 + 47?")
PATHS = pytest.mark.parametrize("path", [(), ("--num-beams", "2")], ids=["runner", "mirror"])


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture
def changed(artifact: Path, tmp_path: Path) -> Callable[..., Path]:
    """The artifact with a file replaced."""

    def change(name: str, data: bytes) -> Path:
        folder = shutil.copytree(artifact, tmp_path / "changed")
        put(folder, name, data)
        return folder

    return change


def refused(artifact: Path, *arguments: str | Path, stdin: bytes = b"") -> str:
    result = CliRunner().invoke(cli, ["generate", str(artifact), *map(str, arguments)], input=stdin)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("error: ") and "defect" not in result.stderr
    return result.stderr


@PATHS
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*PROMPT, "--min-p", "0.1", "--temperature", "0"), "--min-p is for sampling; pass a --temperature above 0."),
        ((*PROMPT, "--temperature", "1e-5"), "--temperature 1e-05 is too small to sample with"),
        (
            (*PROMPT, "--mode", "creative"),
            "invalid value for '--mode': 'creative' is not one of 'default', 'reasoning'",
        ),
        ((*PROMPT, "--presence-penalty", "3"), "3.0 is not in the range -2<=x<=2"),
        ((*PROMPT, "--frequency-penalty", "nan"), "is not a finite number"),
        ((*PROMPT, "--max-new-tokens", "0"), "0 is not in the range x>=1"),
        ((*PROMPT, "--raw", "--system", "x"), "--raw uses the prompt as it is"),
        ((*PROMPT, "--raw", "--thinking"), "--raw uses the prompt as it is"),
        ((*PROMPT, "--tools", "none.json"), "'none.json' does not exist"),
        ((*PROMPT, "--tools", "{number.json}"), "does not hold a list of tool schemas; write them as [{…}, …]."),
        ((*PROMPT, "--tools", "{text.json}"), "is not JSON in UTF-8"),
        ((*PROMPT, "--tools", "{numbers.json}"), "holds 1, and a tool schema is an object; write them as [{…}, …]."),
        (("-p", "caf\udce9"), "the prompt holds the byte 0xe9, which is not UTF-8"),
        (("-p", "-"), "the prompt on stdin holds the byte 0xe9 at offset 3"),
    ],
)
def test_without_opening_the_artifact(
    path: tuple[str, ...],
    arguments: tuple[str, ...],
    sentence: str,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Artifact, "open", lambda *_, **__: pytest.fail("the artifact was opened"))
    for name, text in {"number": "1", "numbers": "[1]", "text": "{"}.items():
        (tmp_path / f"{name}.json").write_text(text)
    given = [str(tmp_path / word[1:-1]) if word.startswith("{") else word for word in arguments]
    assert sentence in refused(artifact, *given, *path, stdin=b"caf\xe9")


@PATHS
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-p", "word " * 600), "and the artifact holds 512; shorten it, or export with --max-length"),
        (("-p", "word " * 600, "--raw"), "and the artifact holds 512; shorten it, or export with --max-length"),
        ((*PROMPT, "--max-new-tokens", "495"), "an answer of up to 495 come to 515, and the artifact holds 512"),
        (("-p", "", "--raw"), "the prompt is empty"),
        ((*PROMPT, "--top-p", "0.9"), "--top-p is for sampling; pass --temperature too."),
        (
            (*PROMPT, "--top-k", "9", "--mode", "default"),
            "top_k is for sampling, and the mode default of EXAONE 4.0",
        ),
        ((*PROMPT, "--system", "caf\udce9"), "the chat holds the byte 0xe9, which is not UTF-8"),
        ((*PROMPT, "--tools", "{half.json}"), "the chat holds half of a surrogate pair"),
        ((*PROMPT, "--verify", "{key.pem}"), "key.pem"),
    ],
)
def test_without_reading_the_weights(
    path: tuple[str, ...],
    arguments: tuple[str, ...],
    sentence: str,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Artifact, "checking_weights", lambda _: pytest.fail("the weights were read"))
    (tmp_path / "half.json").write_text('[{"type": "function", "function": {"name": "\\ud83d"}}]')
    (tmp_path / "key.pem").write_text("no key")
    given = [str(tmp_path / word[1:-1]) if word.startswith("{") else word for word in arguments]
    assert sentence in refused(artifact, *given, *path)


@PATHS
def test_a_template_that_refuses(path: tuple[str, ...], changed: Callable[..., Path], monkeypatch: Any) -> None:
    folder = changed("chat_template.jinja", b"{{ raise_exception('no system message') }}")
    monkeypatch.setattr(Artifact, "checking_weights", lambda _: pytest.fail("the weights were read"))
    assert "the chat template refuses the messages: no system message." in refused(folder, *PROMPT, *path)


@pytest.mark.parametrize("name", ["presence-penalty", "frequency-penalty"])
@pytest.mark.parametrize(
    ("values", "options", "beyond"),
    [
        ({}, ("--num-beams", "2"), "--num-beams"),
        ({"typical_p": 0.5}, (), "typical_p of generation_config.json"),
    ],
)
def test_penalties_that_transformers_does_not_have(
    name: str, values: dict[str, Any], options: tuple[str, ...], beyond: str, changed: Any, monkeypatch: Any
) -> None:
    own = json.loads((TINY / "generation_config.json").read_text())
    folder = changed("generation_config.json", json.dumps(own | values).encode())
    monkeypatch.setattr(Artifact, "checking_weights", lambda _: pytest.fail("the weights were read"))
    sentence = refused(folder, *PROMPT, *options, f"--{name}", "1.5")
    assert sentence == f"error: --{name} is not supported with {beyond}; leave it out.\n"


def test_prompt_lookup_beside_beams(changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    own = json.loads((TINY / "generation_config.json").read_text())
    folder = changed("generation_config.json", json.dumps(own | {"num_beams": 2}).encode())
    monkeypatch.setattr(Artifact, "checking_weights", lambda _: pytest.fail("the weights were read"))
    lookup = (*PROMPT, "--prompt-lookup", "3")
    assert "gives num_beams=2, and prompt lookup continues one row; pass --num-beams 1" in refused(folder, *lookup)
    assert "--prompt-lookup continues one row; leave out --num-beams." in refused(folder, *lookup, "--num-beams", "2")
