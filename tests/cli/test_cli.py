"""The command line: what is printed where, and with which exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from exaone_export.__main__ import SPIN_COUNT
from exaone_export.artifact.reader import Artifact
from exaone_export.cli import main
from exaone_export.cli.describe import as_table
from exaone_export.cli.main import COMMANDS, cli
from exaone_export.model.config.reading import read_spec
from exaone_export.planning.sizes import format_size
from exaone_export.targets.cache_layout import CacheLayout
from tests.conftest import TINY


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


def test_help_loads_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys; from exaone_export.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnxruntime', 'transformers', 'onnx', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SPIN_COUNT),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_do_not_spin_for_long_unless_told_to(given: dict[str, str], expected: str | None) -> None:
    code = (
        "import os, sys; from exaone_export.__main__ import main\n"
        "assert 'torch' not in sys.modules\n"
        "sys.argv = ['exaone-export', '--version']\n"
        "try: main()\n"
        "finally: print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    left = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=left | given)
    assert result.stdout.splitlines()[-1] == str(expected)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_describes_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_traceback_is_shown_where_it_is_asked_for_before_or_behind_a_command(name: str) -> None:
    group = click.Group("cli", commands={"within": click.Command("within")})
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert [option.name for option in command.params].count("traceback") == 1
    assert "Print the Python traceback of an error." in run(name, "--help").output
    main._take_traceback(group)
    assert [option.name for option in group.commands["within"].params] == ["traceback"]


@pytest.mark.parametrize("arguments", [("--traceback", "plan", "none"), ("plan", "none", "--traceback")])
def test_a_traceback(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.splitlines()[-1].startswith("error: none is neither a folder")
    assert "Traceback" not in run("plan", "none").stderr


@pytest.mark.parametrize("redirection", [">&3", ">&3 2>&3"])
@pytest.mark.parametrize("arguments", [["doctor", "--json"], ["plan", "1.2b"], ["eval", "--help"]])
def test_a_reader_that_goes_away_ends_a_command_in_silence(arguments: list[str], redirection: str) -> None:
    """``exaone-export plan 1.2b | head -1``, with a ``head`` that is sure to be gone."""
    reader, writer = os.pipe()
    os.close(reader)
    command = f"{shlex.join([sys.executable, '-m', 'exaone_export', *arguments])} {redirection}"
    result = subprocess.run(
        ["bash", "-c", f"exec 3>&{writer}; {command}"], pass_fds=[writer], capture_output=True, text=True, check=False
    )
    os.close(writer)
    assert (result.returncode, result.stdout, result.stderr) == (141, "", "")


def test_an_interruption_is_no_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("exaone_export.exporter.plan.deployment.read_deployment", interrupt)
    result = run("plan", "1.2b")
    assert (result.exit_code, result.stderr) == (130, "error: interrupted.\n")


def test_an_interruption_says_where_the_work_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        error = KeyboardInterrupt()
        error.add_note("the same command goes on from here")
        raise error

    monkeypatch.setattr("exaone_export.exporter.plan.deployment.read_deployment", interrupt)
    result = run("plan", "1.2b")
    assert (result.exit_code, result.stderr) == (130, "error: interrupted; the same command goes on from here.\n")


def test_export_prints_what_it_wrote_on_stdout_and_progress_on_stderr(tmp_path: Path) -> None:
    result = run("export", TINY, tmp_path / "out", "--max-length", "128", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["cache"]["max_length"] == 128
    assert result.stderr.splitlines()[0] == "trace"
    assert result.stderr.splitlines()[-1] == "commit"
    shown = run("export", TINY, tmp_path / "out", "--max-length", "128", "--overwrite")
    table, _, end = shown.stdout.partition("\n\n")
    assert table == run("inspect", tmp_path / "out").stdout.rstrip()
    size = format_size(sum(path.stat().st_size for path in (tmp_path / "out").iterdir()))
    wrote, then = end.splitlines()
    assert wrote.startswith(f"wrote  {tmp_path / 'out'}, {size} in ") and wrote.endswith(" s")
    assert then == f"next   exaone-export generate {tmp_path / 'out'} -p Hello"
    assert re.search(r"^write (\d+)/\1 MiB", shown.stderr, re.MULTILINE)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = run("export", TINY, tmp_path / "out", "--max-length", "128", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "layers 0-2  window 32, RoPE, QK-norm, norms on the outputs, 64 cache rows, float32" in result.stdout
    assert "layer 3     global, no position" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_cache_is_as_large_as_its_own_format(artifact: Path) -> None:
    manifest = Artifact.open(artifact).manifest
    spec, layout = read_spec(manifest.model), CacheLayout.from_dict(manifest.cache)
    numbers = layout.num_bytes(spec.num_key_value_heads, spec.head_dim, 1)
    for cache, size in ((None, 4 * numbers), ("int8", numbers)):
        shown = as_table(msgspec.structs.replace(manifest, recipe=manifest.recipe | {"cache": cache}))
        assert f"cache       {format_size(size)} per sequence" in shown


def test_errors_are_one_sentence_with_the_fix(artifact: Path, tmp_path: Path) -> None:
    existing = run("export", TINY, artifact)
    assert existing.exit_code == 1
    assert existing.stderr == f"error: {artifact} is an artifact already; pass --overwrite to replace it.\n"
    precision = run("export", TINY, tmp_path / "out", "--precision", "int3")
    assert precision.exit_code == 2
    assert (
        precision.stderr == "error: target ort-cpu does not run precision 'int3'; choose --precision from: float32, "
        "int8, int4, int8-weights.\n"
    )
    assert run("export", TINY).exit_code == 2
    assert run("export", TINY, tmp_path / "out", "--target", "gpu").exit_code == 2


def test_inspect_checks_the_hashes(artifact: Path, tmp_path: Path) -> None:
    result = run("inspect", artifact)
    assert result.exit_code == 0, result.output
    assert "target      ort-cpu, float32" in result.stdout
    assert json.loads(run("inspect", artifact, "--json").stdout)["target"] == "ort-cpu"

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in artifact.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    data = bytearray((damaged / "model.onnx.data").read_bytes())
    data[1_000_003] ^= 1
    (damaged / "model.onnx.data").write_bytes(data)
    result = run("inspect", damaged)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "model.onnx.data" in result.stderr
    assert result.stdout == ""
    assert run("generate", damaged, "-p", "hi").exit_code == 1


def test_parity_passes_fails_and_writes_its_report(artifact: Path, random_hybrid: Path, tmp_path: Path) -> None:
    artifact, report = shutil.copytree(artifact, tmp_path / "artifact"), tmp_path / "report.json"
    result = run("parity", artifact, TINY, "--length", "40", "--tokens", "8", "--report", report, "--locate")
    assert result.exit_code == 0, result.output
    assert "ort-cpu" in result.stdout
    rows = json.loads(report.read_text())["rows"]
    assert [row["side"] for row in rows] == ["reference", "ort-cpu"]
    assert all(row["logits"] <= 1e-4 and row["first_layer"] is None for row in rows)
    assert Artifact.open(artifact).manifest.parity is None
    assert run("parity", artifact, TINY, "--length", "40", "--tokens", "8", "--record").exit_code == 0
    parity = Artifact.open(artifact).manifest.parity
    assert parity is not None
    assert parity["passed"]
    assert parity["prompt_tokens"] == [40]
    assert "parity      passed" in run("inspect", artifact).stdout
    long = run("parity", artifact, TINY, "--length", "500", "--tokens", "13")
    assert long.exit_code == 2
    assert "a prompt of 500 and 13 new tokens do not fit the 512 tokens that the artifact holds" in long.stderr
    refused = run("parity", artifact, random_hybrid, "--length", "40", "--tokens", "8")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith("error: ")


def test_generate_streams_and_gives_json(artifact: Path) -> None:
    streamed = run("generate", artifact, "-p", "What is 27 + 45?", "--max-new-tokens", "16")
    assert streamed.exit_code == 0, streamed.output
    answer = json.loads(run("generate", artifact, "-p", "What is 27 + 45?", "--max-new-tokens", "16", "--json").stdout)
    assert streamed.stdout.strip() == answer["content"] == "72"
    assert answer["prompt_tokens"] > 0
    beams = run("generate", artifact, "-p", "What is 27 + 45?", "--max-new-tokens", "8", "--num-beams", "2")
    assert beams.exit_code == 0, beams.output
    seeds = [
        run(
            "generate", artifact, "-p", "Hello", "--raw", "--temperature", "2", "--seed", "5", "--max-new-tokens", "8"
        ).stdout
        for _ in range(2)
    ]
    assert seeds[0] == seeds[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", ""], None),
        (["-p", "", "--raw"], "a prompt has at least one token"),
        (["-p", "word " * 600, "--raw"], "512"),
        (["-p", "x", "--top-p", "0.9"], "--top-p is for sampling"),
        (["-p", "x", "--raw", "--thinking"], "--raw uses the prompt as it is"),
    ],
)
def test_generate_refuses_what_it_cannot_run(artifact: Path, arguments: list[str], sentence: str | None) -> None:
    result = run("generate", artifact, *arguments, "--max-new-tokens", "4")
    assert result.exit_code == (0 if sentence is None else 2), result.output
    if sentence is not None:
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr


def test_an_answer_of_no_given_length_ends_where_the_artifact_does(export_artifact: Callable[..., Path]) -> None:
    small = export_artifact(TINY, "ort-cpu", max_length=64)
    result = run("generate", small, "-p", "Hello", "--raw", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["prompt_tokens"] + len(answer["tokens"]) <= 64


def test_a_random_checkpoint_of_a_published_shape_exports(tmp_path: Path) -> None:
    """One layer only: the whole shapes are the benchmarks' business."""
    assert run("random-checkpoint", tmp_path / "model", "--shape", "1.2b", "--layers", "31").exit_code == 2
    result = run("random-checkpoint", tmp_path / "model", "--shape", "1.2b", "--layers", "1", "--tokenizer", TINY)
    assert result.exit_code == 0, result.output
    model, wrote, then = (line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert model == ["model", "1 layer, 245,373,056 parameters, bfloat16"]
    assert wrote[0] == "wrote" and wrote[1].startswith(f"{tmp_path / 'model'}, ") and " MiB in " in wrote[1]
    assert then == ["next", f"exaone-export export {tmp_path / 'model'} {tmp_path / 'model'}-onnx"]
    assert run("random-checkpoint", tmp_path / "model").exit_code == 1
