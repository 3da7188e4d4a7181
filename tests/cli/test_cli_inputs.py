"""What is given on the command line and cannot be used is refused in one sentence, by every command alike."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import COMMANDS, cli
from exaone_export.cli.paths import MODEL, PathArgument
from exaone_export.cli.sampling import check_temperature
from tests.conftest import TINY


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def given_paths() -> Iterator[tuple[str, str]]:
    """Every path or model that a command takes, by the command's and the parameter's name."""
    for name in COMMANDS:
        for parameter in command(name).params:
            if isinstance(parameter.type, click.Path) or parameter.type is MODEL:
                yield name, str(parameter.name)


def line(name: str, which: str, value: str) -> list[str]:
    """A command's line with one value, and any others that it must have."""
    words = [name]
    for parameter in command(name).params:
        if parameter.name != which and not parameter.required:
            continue
        is_there = isinstance(parameter.type, click.Path) and parameter.type.exists
        text = value if parameter.name == which else __file__ if is_there else "else"
        words += [text] if isinstance(parameter, click.Argument) else [parameter.opts[0], text]
    return words


@pytest.mark.parametrize(("name", "which"), given_paths())
def test_what_names_no_file(name: str, which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    for value, reason in (
        ("~nobody-of-this-name/x", "names the home of a user who does not exist"),
        ("loop/x", "loop"),
        ("a\0b", "null"),
        ("a" * 300, "File name too long"),
    ):
        result = run(*line(name, which, value))
        assert result.exit_code == 2, result.output
        assert reason in result.stderr.splitlines()[-1]
        assert "defect" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_every_path_is_of_one_kind() -> None:
    found = [parameter.type for name in COMMANDS for parameter in command(name).params]
    assert all(isinstance(kind, PathArgument) for kind in found if isinstance(kind, click.Path))
    names = {name: [parameter.name for parameter in command(name).params] for name in COMMANDS}
    assert {name for name, parameters in names.items() if "model" in parameters} == {
        name for name, which in given_paths() if which == "model"
    }


@pytest.mark.parametrize(
    "words",
    [
        ("parity", "artifact", "model", "--report"),
        ("eval", "artifact", "model", "--data", "data", "--report"),
        ("eval", "artifact", "model", "--data", "data", "--plot"),
        ("plan", "1.2b", "--plot"),
        ("bench", "artifact", "--plot"),
        ("build", "artifact", "out", "--timing-cache"),
    ],
)
def test_what_is_written_at_last_is_refused_at_first(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("old.png").touch()
    for value, reason in (
        ("nowhere/x.png", "lies in nowhere, which is not a folder; make it first."),
        ("old.png/x.png", "lies in old.png, which is not a folder; make it first."),
        ("folder.png", "is a directory"),
    ):
        result = run(*words, value)
        assert result.exit_code == 2, result.output
        assert reason in result.stderr.splitlines()[-1]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written; check its permissions." in run(*words, "old.png").stderr
    assert f"cannot be made, because {tmp_path} is read-only; choose another folder." in run(*words, "new.png").stderr


@pytest.mark.parametrize(
    ("words", "values", "reason"),
    [
        (("generate", "a", "-p", "x", "--temperature"), ("nan", "inf"), ""),
        (("generate", "a", "-p", "x", "--top-p"), ("nan",), "is not a finite number"),
        (("generate", "a", "-p", "x", "--min-p"), ("nan",), "is not a finite number"),
        (("generate", "a", "-p", "x", "--repetition-penalty"), ("nan", "1e-320", "inf"), ""),
        (("generate", "a", "-p", "x", "--num-beams"), ("65", "9" * 30), "is not in the range"),
        (("generate", "a", "-p", "x", "--seed"), ("9" * 30, "-" + "9" * 30), "is not in the range"),
        (("generate", "a", "-p", "x", "--threads"), ("9" * 30,), "is not in the range"),
        (("generate", "a", "-p", "x", "--top-k"), ("9" * 30,), "is more than 2147483647"),
        (("bench", "a", "--threads"), ("9" * 30,), "is not in the range"),
        (("bench", "a", "--batch"), ("9" * 30,), "is more than 2147483647"),
        (("build", "a", "out", "--workspace"), ("nan", "inf", "1e30"), ""),
        (("build", "a", "out", "--max-batch"), ("9" * 30,), "is more than 2147483647"),
        (("eval", "a", "m", "--data", "d", "--max-kl"), ("nan", "inf"), "is not a finite number"),
        (("eval", "a", "m", "--data", "d", "--min-accuracy"), ("nan",), "is not a finite number"),
        (("parity", "a", "m", "--seed"), ("9" * 30,), "is not in the range"),
        (("random-checkpoint", "out", "--seed"), ("9" * 30,), "is not in the range"),
    ],
)
def test_numbers_that_nothing_can_be_done_with(words: tuple[str, ...], values: tuple[str, ...], reason: str) -> None:
    for value in values:
        result = run(*words, value)
        assert result.exit_code == 2, result.output
        assert "invalid value for '--" in result.stderr
        assert reason in result.stderr


def test_a_temperature_too_small_to_divide_by() -> None:
    with pytest.raises(click.UsageError, match="--temperature 1e-05 is too small to sample with; pass 0 for"):
        check_temperature({"temperature": 1e-5})


def _folder(path: Path) -> None:
    path.mkdir()


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "is not a regular file"),
        (_endless, "is not a regular file"),
        (_folder, "is a directory"),
        (lambda path: path.write_bytes(b'["caf\xe9"]'), "is not JSON in UTF-8: 'utf-8'"),
        (lambda path: path.write_text("[" * 200_000), "is not JSON in UTF-8: maximum recursion depth"),
        (lambda path: path.write_text("[" + "9" * 5000 + "]"), "is not JSON in UTF-8: Exceeds the limit"),
        (lambda path: path.write_text("{}"), "does not hold a list of tool schemas"),
        (lambda path: path.write_bytes(bytes(5 << 20)), "and at most 4194304 are read"),
    ],
)
def test_files_of_tools_that_are_none(make: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    make(tmp_path / "tools.json")
    result = run("generate", tmp_path, "-p", "x", "--tools", tmp_path / "tools.json")
    assert result.exit_code == 2, result.output
    assert reason in result.stderr
    assert "defect" not in result.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"),
        PermissionError(13, "Permission denied", "/some/file"),
    ],
)
def test_what_the_machine_refuses_is_no_defect(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("exaone_export.exporter.plan.deployment.read_deployment", fail)
    result = run("plan", "1.2b")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: out of memory; free some, or use a smaller batch or length.\n"
        if not isinstance(error, OSError)
        else "error: /some/file: Permission denied; check the path, its permissions and the disk.\n"
    )


def test_a_package_that_is_missing_or_broken_is_for_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    result = run("plan", "some/model")
    assert result.exit_code == 1
    assert "huggingface_hub" in result.stderr
    assert result.stderr.endswith("; run: exaone-export doctor, which says what to install.\n")


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
def test_names_and_answers_that_a_terminal_cannot_show_are_escaped(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "config.json").write_bytes((TINY / "config.json").read_bytes())
    arguments = [sys.executable, "-m", "exaone_export", "doctor", folder]
    result = subprocess.run(
        arguments, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert result.returncode == 1
    assert b"caf\\udce9" in result.stdout
    assert b"defect" not in result.stderr


REFUSED = [
    (["export", TINY, "{folder}"], "is not an artifact and not empty; choose another destination."),
    (["export", TINY, "out", "--precision", "int3"], "does not run precision 'int3'; choose --precision from: float32"),
    (["export", TINY, "out", "--precision", "fp8"], "does not run precision 'fp8'; choose --precision from: float32"),
    (["export", "some/model", "out", "--precision", "fp8"], "target ort-cpu does not run precision 'fp8'"),
    (["export", TINY, "out", "--target", "gpu"], "'gpu' is not one of 'onnx', 'ort-cpu'"),
    (["export", TINY, "out", "--compute-type", "float16"], "precision float32 is not computed in 'float16'"),
    (["export", TINY, "out", "--prefill-chunk", "8"], "takes steps of any length; leave --prefill-chunk out."),
    (["export", TINY, "out", "--target", "ort-cuda", "--cache-precision", "int8"], "does not hold its cache in 'int8'"),
    (["export", TINY, "out", "--sign", "nothing.pem"], "nothing.pem"),
    (["build", TINY, "{folder}"], "is not an artifact and not empty; choose another destination."),
    (["build", "nothing", "out"], "nothing is not a folder; give the folder that an export has written, or a hub id"),
    (["build", "{folder}", "{folder}", "--overwrite"], "is the artifact that the engine is built from, and the next"),
    (["calibrate", TINY, "out", "--data", "d", "--method", "mse"], "--method mse is for one precision"),
    (["calibrate", TINY, "out", "--data", "d", "--precision", "int4", "--keep-layers", "x"], "keep layers is 'x'"),
    (["calibrate", TINY, "{folder}", "--data", "d"], "is a folder; give the path of a file"),
    (["generate", "{folder}", "-p", "x", "--top-p", "0.5", "--temperature", "0"], "--top-p is for sampling; pass a"),
    (["generate", "{folder}", "-p", "x", "--raw", "--thinking"], "--raw uses the prompt as it is; leave out --system"),
    (
        ["generate", "nothing", "-p", "x"],
        "nothing is not a folder; give the folder that an export has written, or a hub id such as ORG/NAME.",
    ),
    (
        ["parity", "nothing", TINY],
        "nothing is not a folder; give the folder that an export has written, or a hub id such as ORG/NAME.",
    ),
    (
        ["eval", "nothing", TINY, "--data", "d"],
        "nothing is not a folder; give the folder that an export has written, or a hub id such as ORG/NAME.",
    ),
    (["eval", "a", TINY, "--data", "d", "--no-generate", "--min-accuracy", "1"], "leave --no-generate or"),
    (["eval", "a", TINY, "--data", "d", "--plot", "x.gif"], "unsupported image format; use .png, .svg or .pdf."),
    (
        ["bench", "nothing"],
        "nothing is not a folder; give the folder that an export has written, or a hub id such as ORG/NAME.",
    ),
    (
        ["inspect", "nothing"],
        "nothing is not a folder; give the folder that an export has written, or a hub id such as ORG/NAME.",
    ),
    (["plan", TINY, "--plot", "x.gif"], "unsupported image format; use .png, .svg or .pdf."),
    (
        ["plan", TINY, "--memory", "many"],
        "'many' is not a valid size; give bytes with a unit, such as 24GiB or 512MiB.",
    ),
    (["random-checkpoint", "out", "--dtype", "int7"], "dtype is 'int7'; choose --dtype from: float32"),
    (["random-checkpoint", "out", "--layers", "99"], "1.2b has 30 layers; pass that many or fewer."),
    (["random-checkpoint", "{folder}"], "exists and is not an empty folder; choose another destination."),
]


def test_what_the_arguments_decide_is_refused_in_one_sentence_without_torch(tmp_path: Path) -> None:
    """In one process for all of them, where neither torch nor a runtime is there to be loaded."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a file").touch()
    lines = [[str(word).replace("{folder}", str(tmp_path / "folder")) for word in words] for words, _ in REFUSED]
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from exaone_export.cli.main import cli\n"
        "found = []\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    result = CliRunner().invoke(cli, line)\n"
        "    heavy = sorted({'torch', 'transformers', 'onnxruntime', 'onnx_ir'} & set(sys.modules))\n"
        "    found.append([result.exit_code, result.stdout, result.stderr, heavy])\n"
        "print(json.dumps(found))"
    )
    arguments = [sys.executable, "-c", code, json.dumps(lines)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path)
    for (status, stdout, stderr, heavy), (words, sentence) in zip(json.loads(result.stdout), REFUSED, strict=True):
        assert heavy == [], words
        assert status in (1, 2) and stdout == "", words
        assert sentence in stderr and stderr.startswith("error: ") and stderr.count("\n") == 1, (words, stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "1.2b", "--nothing"], "no such option '--nothing'; run: cli plan --help."),
        (["plan", "1.2b", "--targte", "x"], "no such option '--targte'; did you mean '--target'?"),
        (["plan"], "missing argument 'MODEL'; run: cli plan --help."),
        (["plan", "1.2b", "more"], "got unexpected extra argument (more); run: cli plan --help."),
        (["nothing"], "no such command 'nothing'; run: cli --help."),
        (["--nothing"], "no such option '--nothing'; run: cli --help."),
        (["bench", "a", "--new", "1"], "invalid value for '--new': 1 is not in the range x>=2; run: cli bench --help."),
        (["doctor", "--verify", "k"], "--verify is for an artifact; give ARTIFACT too."),
    ],
)
def test_an_invalid_command_line_is_one_sentence_too(words: list[str], sentence: str) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {sentence}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_every_default_in_one_way_and_in_plain_words(name: str) -> None:
    """The words are those that people who write such tools use, and not these."""
    text = run(name, "--help").output
    assert "[default" not in text and "by default" not in text
    for option in command(name).params:
        shown = isinstance(option, click.Option) and option.default not in (None, False, ()) and not option.is_flag
        if shown and isinstance(option.default, str | int | float):
            assert f"(default: {option.default})" in str(getattr(option, "help", "")), option.name
        assert isinstance(option, click.Argument) or getattr(option, "help", ""), option.name
    for words in (
        "mend",
        "is no ",
        "just so many",
        "vouches",
        "as far as the target",
        "may be given again",
        "what was asked",
    ):
        assert re.search(rf"\b{words}", text) is None  # "recommend" is plain


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "out", "model", "--data", "lines.jsonl", "--report", "lines.jsonl"],
        ["eval", "out", "model", "--report", "lines.jsonl", "--data", "./lines.jsonl"],
        ["eval", "out", "model", "--report", "link.jsonl", "--data", "lines.jsonl"],
        ["predict", "out", "--input", "lines.jsonl", "--output", "lines.jsonl"],
        ["batch", "out", "lines.jsonl", "lines.jsonl"],
        ["parity", "out", "model", "--report", "out/exaone_export.json"],
        ["parity", "out", "model", "--report", "out/model.onnx"],
        ["parity", "out", "model", "--report", "model/model.safetensors"],
        ["parity", "out", "model", "--report", "model/config.json"],
        ["parity", "out", "model", "--report", "key.pem", "--verify", "key.pem"],
    ],
)
def test_a_file_that_a_command_reads_is_not_written_over(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("lines.jsonl", "key.pem", "out/exaone_export.json", "out/model.onnx", "model/model.safetensors")
    for name in (*names, "model/config.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("kept")
    Path("link.jsonl").symlink_to("lines.jsonl")
    result = run(*words)
    assert result.exit_code == 2
    assert " is read by this command too, and would be lost; choose another file." in result.stderr
    assert "invalid value for 'OUT'" in result.stderr or "invalid value for '--" in result.stderr
    assert "--data" not in result.stderr and "--input" not in result.stderr, "what is written is named"
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == {"kept"}


def test_a_device_may_be_read_and_written(tmp_path: Path) -> None:
    """As a terminal is, by ``--input /dev/stdin --output /dev/stdout``."""
    sentence = run("predict", tmp_path, "--input", "/dev/null", "--output", "/dev/null").stderr
    assert sentence.endswith("--output: /dev/null is not a regular file; leave it out for stdout.\n")


def test_a_report_of_before_is_replaced_where_it_is(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.touch()
    assert "is not an artifact" in run("parity", tmp_path, "model", "--report", report).stderr
