"""``exaone-export bench`` on the trained checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import cli
from exaone_export.runtime.bench import bandwidth
from tests.conftest import TINY, without_package

QUICK = ("--prompt", "16", "--new", "2", "--repetitions", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_SMALLEST_BUFFER", 1 << 16)
    monkeypatch.setattr(bandwidth, "_CACHES_IN_BUFFER", 0)
    monkeypatch.setattr(bandwidth, "_SECONDS_TO_SETTLE", 0)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


def test_json_on_stdout_and_progress_on_stderr(artifact: Path) -> None:
    result = run(artifact, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [test["name"] for test in content["tests"]] == ["pp16", "tg2", "pp16 b4", "tg2 b4"]
    assert [left["name"] for left in content["not_fitting"]] == [
        f"tg2 @ d{depth}{rows}" for rows in ("", " b4") for depth in (4096, 16384)
    ]
    assert content["tests"][0].keys() < content["tests"][1].keys()
    assert content["tests"][1]["bytes_per_step"] > content["weight_bytes_per_step"] > 5e6
    assert content["tests"][1]["session_share"]["median"] < 1
    assert result.stderr.splitlines() == [
        "load",
        "load",
        *(line for name in ("pp16", "tg2", "pp16 b4", "tg2 b4") for line in (f"{name} 0/2 runs", f"{name} 2/2 runs")),
    ]


def test_a_table_and_a_plot(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = ("--depth", "0", "--depth", "100", "--depth", "511", "--batch", "2")
    result = run(artifact, *QUICK, *options, "--plot", tmp_path / "decode.png")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(" | ")[5].strip() for line in lines[2:5]] == ["pp16 b2", "tg2 b2", "tg2 @ d100 b2"]
    assert lines[-1] == (
        "does not fit: tg2 @ d511 b2: 513 tokens a row do not fit the 512 that the artifact holds; export with "
        "--max-length 513 or more."
    )
    assert (tmp_path / "decode.png").stat().st_size > 10_000


def test_what_cannot_be_is_said_before_anything_is_measured(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = run(artifact, *QUICK, "--prompt", "600", "--depth", "600", "--batch", "2")
    assert nothing.exit_code == 2
    assert nothing.stderr.splitlines()[-1] == (
        "error: no test fits: pp600 b2 would be the first, and 601 tokens a row do not fit the 512 that the artifact "
        "holds; export with --max-length 601 or more, or pass a smaller --prompt, --new, --depth or --batch."
    )
    for wrong in (("--new", "1"), ("--depth", "-1"), ("--batch", "0"), ("--repetitions", "0"), ("--prompt", "0")):
        assert run(artifact, *wrong).exit_code == 2
    gif = run(artifact, "--plot", tmp_path / "decode.gif")
    assert gif.exit_code == 2
    assert gif.stderr == (
        "error: invalid value for '--plot': decode.gif: unsupported image format; use .png, .svg or .pdf.\n"
    )
    assert run(artifact, "--plot", tmp_path / "none" / "decode.png").exit_code == 2
    without_package(monkeypatch, "matplotlib")
    missing = run(artifact, "--plot", tmp_path / "decode.png")
    assert missing.exit_code == 1
    assert missing.stderr == (
        "error: a plot needs matplotlib, which is not installed; run: pip install 'exaone-export[plot]'.\n"
    )
