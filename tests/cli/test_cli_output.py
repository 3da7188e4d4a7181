"""What a terminal is given: nothing that comes out of a file or a name is obeyed by it."""

from __future__ import annotations

import io
import json
import logging
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export.cli import output
from exaone_export.errors import CheckpointError, MissingExtraError
from exaone_export.exporter.checkpoint.checkpoint import WEIGHTS_NAME
from exaone_export.terminal_text import escape, one_line
from tests.cli.test_cli import run
from tests.exporter.checkpoint.test_hostile_checkpoints import copy_of_tiny

pytestmark = pytest.mark.hostile

EVIL = "a\x1b[2J\x1b]0;b\x07\nerror: c\r\x9b1m\u202ed\u2028e"
SHOWN = r"a\u001b[2J\u001b]0;b\u0007\nerror: c\u000d\u009b1m\u202ed\u2028e"


def test_what_is_escaped_and_what_is_not() -> None:
    assert one_line(EVIL) == SHOWN
    assert escape("한국어\t\U0001f642\n\u200d") == "한국어\t\U0001f642\n\u200d"
    assert json.loads(escape(json.dumps(EVIL, ensure_ascii=False))) == EVIL


def test_every_error_is_one_line() -> None:
    assert str(CheckpointError(f"{EVIL} is not a name.")) == f"{SHOWN} is not a name."
    assert str(MissingExtraError(EVIL, "m", extra="cpu")).startswith(f"{SHOWN} needs m, which")


def test_results_are_safe_on_a_terminal_and_whole_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output.say(EVIL)
    assert capsys.readouterr().out == f"{EVIL}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.say(EVIL)
    assert capsys.readouterr().out == SHOWN.replace(r"\n", "\n") + "\n"
    output.tell(EVIL)
    assert capsys.readouterr().err == f"{SHOWN}\n"


def test_an_encoding_that_has_not_the_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    output.say('"é 한 😀"')
    assert json.loads(written.getvalue().decode("latin-1")) == "é 한 😀"


def test_every_command_prints_by_these_calls() -> None:
    for path in Path(output.__file__).parent.glob("*.py"):
        if path.name not in ("output.py", "main.py", "reference.py"):
            assert not re.search(r"(?<!console\.)\b(echo|print)\(", path.read_text()), path


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    output.log_in_lines()
    assert logging.lastResort is not None
    logging.lastResort.handle(logging.LogRecord("x", logging.WARNING, "", 0, "%s is ignored.", (EVIL,), None))
    assert capsys.readouterr().err == f"{SHOWN} is ignored.\n"


def _tensor(folder: Path) -> None:
    data = (folder / WEIGHTS_NAME).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header[EVIL] = header.pop("model.norm.weight")
    text = json.dumps(header).encode()
    (folder / WEIGHTS_NAME).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def _value(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": EVIL}))


def _key(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {f"{EVIL}_file": EVIL}))


def _shard(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": EVIL}}))


def _link(folder: Path) -> None:
    (folder / f"LICENSE{EVIL.replace('/', '')}").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("change", "option"),
    [(_tensor, ()), (_tensor, ("--traceback",)), (_value, ()), (_key, ()), (_shard, ()), (_link, ())],
)
def test_names_and_values_of_a_checkpoint(
    change: Callable[[Path], None], option: tuple[str, ...], tmp_path: Path
) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    change(folder)
    result = run("export", folder, tmp_path / "out", "--max-length", "64", *option)
    assert result.exit_code in (1, 2)
    assert escape(result.output) == result.output
    errors = [line for line in result.stderr.split("\n") if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].endswith(".") and "defect" not in errors[0]


def test_names_of_folders(tmp_path: Path) -> None:
    folder = tmp_path / EVIL
    folder.mkdir()
    for command in ("verify", "inspect", "doctor", "generate"):
        result = run(command, folder, *(("-p", "a") if command == "generate" else ()))
        assert escape(result.output) == result.output and SHOWN in result.output
    result = run("sign", tmp_path, "--key", tmp_path / EVIL)
    assert escape(result.output) == result.output and SHOWN in result.output
