"""``exaone-export eval``: what it prints and writes, with which exit status, and what it refuses before any work."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from exaone_export.cli import eval as eval_command
from exaone_export.cli.main import cli
from exaone_export.exporter.evaluate.data import read_held_out
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from tests.conftest import TINY, without_package

SUM = {"messages": [{"role": "user", "content": "What is 27 + 45?"}], "answer": "72"}
TEXT = {"slice": "te[x]t $a_b$", "text": "The old river passed the quiet mill. Where is Mina?"}
WRONG = {**SUM, "slice": "wrong", "answer": "73"}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def lines(*given: dict[str, Any]) -> Path:
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in given))
        return tmp_path / "data.jsonl"

    return lines


def test_a_good_artifact_loses_nothing(artifact: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    data, report, picture = write(SUM, TEXT), tmp_path / "report.json", tmp_path / "slices.png"
    options = ("--max-kl", "1e-6", "--min-accuracy", "1", "--report", report, "--plot", picture)
    result = run("eval", artifact, TINY, "--data", data, *options)
    assert result.exit_code == 0, result.output
    content = json.loads(report.read_text())
    assert content["passed"]
    assert content["artifact"] == {"target": "ort-cpu", "precision": "float32"}
    assert len(content["data"]["sha256"]) == 64
    plain, text = content["slices"]
    assert (plain["slice"], plain["answers"], plain["accuracy"], plain["baseline_accuracy"]) == ("plain", 1, 1.0, 1.0)
    assert (text["slice"], text["answers"], text["accuracy"]) == (TEXT["slice"], 0, None)
    assert all(scores["kl"] < 1e-8 and scores["top1"] == 1 for scores in content["slices"])
    # The answer was learned, and is all that the perplexity is taken over.
    assert plain["perplexity"] < 1.1 < text["perplexity"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    header, _, *rows = [line.split("|") for line in result.stdout.splitlines() if line.startswith("|")]
    assert [name.strip() for name in header[1:4]] == ["slice", "lines", "tokens"]
    assert TEXT["slice"] in result.stdout
    assert [cell.strip() for cell in rows[-1][1:3]] == ["all", "2"]
    assert "FAILED" not in result.stdout
    assert result.stderr.splitlines()[-1] == "evaluate 2/2 lines"


def test_a_missed_threshold_is_exit_status_one(artifact: Path, write: Callable[..., Path]) -> None:
    data = write(SUM, WRONG)
    accuracy = run("eval", artifact, TINY, "--data", data, "--min-accuracy", "0.5")
    assert accuracy.exit_code == 1, accuracy.output
    failed = [line.split()[1] for line in accuracy.stdout.splitlines() if line.endswith("| FAILED  |")]
    assert failed == ["wrong"]
    assert "\nFAILED: wrong: accuracy 0 misses --min-accuracy 0.5.\n" in accuracy.stdout
    divergence = run("eval", artifact, TINY, "--data", data, "--max-kl", "0", "--json")
    assert divergence.exit_code == 1, divergence.output
    content = json.loads(divergence.stdout)
    assert not content["passed"]
    assert content["thresholds"] == {"max_kl": 0.0, "min_accuracy": None}
    distributions = json.loads(run("eval", artifact, TINY, "--data", data, "--no-generate", "--json").stdout)
    assert distributions["total"] == content["total"] | {"accuracy": None, "baseline_accuracy": None}


def test_another_model_departs(artifact: Path, write: Callable[..., Path], tmp_path: Path) -> None:
    """The same shapes with random weights in place of the trained ones."""
    model, generator = tmp_path / "model", torch.Generator().manual_seed(0)
    shutil.copytree(TINY, model)
    shapes = {name: weight.shape for name, weight in load_file(TINY / "model.safetensors").items()}
    weights = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    result = run("eval", artifact, model, "--data", write(SUM), "--max-kl", "0.1", "--json")
    assert result.exit_code == 1, result.output
    (scores,) = json.loads(result.stdout)["slices"]
    assert scores["kl"] > 0.1
    assert (scores["accuracy"], scores["baseline_accuracy"]) == (1, 0)
    assert scores["perplexity"] < scores["baseline_perplexity"]


def test_what_cannot_be_asked_is_refused_before_any_work(
    artifact: Path, random_hybrid: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str | Path) -> str:
        result = run("eval", artifact, *arguments)
        assert result.exit_code in (1, 2), result.output
        assert "evaluate" not in result.stderr
        return result.stderr

    data = write(TEXT)
    assert "has an 'answer' to measure accuracy on" in refused(TINY, "--data", data, "--min-accuracy", "0.5")
    unasked = ("--data", write(SUM), "--min-accuracy", "0.5", "--no-generate")
    assert "leave --no-generate or --min-accuracy out" in refused(TINY, *unasked)
    data = write(TEXT)
    assert "is not a file" in refused(TINY, "--data", data.with_name("missing.jsonl"))
    assert "the artifact has a vocabulary of 843 tokens and" in refused(random_hybrid, "--data", data)
    assert "which is not a folder; make it first" in refused(TINY, "--data", data, "--report", data / "report.json")
    assert "unsupported image format; use .png, .svg or .pdf." in refused(TINY, "--data", data, "--plot", "slices.txt")
    assert "missing option '--data'" in refused(TINY)
    without_package(monkeypatch, "matplotlib")
    assert "pip install 'exaone-export[plot]'" in refused(TINY, "--data", data, "--plot", "slices.png")


def test_the_tiny_checkpoints_held_out_lines_are_what_it_is_evaluated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(TINY / "training"))
    monkeypatch.setattr(sys, "argv", ["heldout.py", "--examples", "2"])
    heldout, evaluate, encoding = map(importlib.import_module, ("heldout", "evaluate", "encoding"))
    heldout.main()
    (tmp_path / "data.jsonl").write_text(capsys.readouterr().out)
    tokenizer = load_tokenizer(TINY)
    found = read_held_out(tmp_path / "data.jsonl", tokenizer, seq_length=512, max_length=1024)
    examples = [example for group in evaluate.GROUPS for example in evaluate.held_out(group, 2)]
    assert len(found) == len(examples) == 14
    for sample, example in zip(found, examples, strict=True):
        wanted = encoding.encode(tokenizer, example)
        assert sample.tokens.tolist() == wanted.prompt + wanted.completion
        assert sample.answer == len(wanted.prompt)
    assert [sample.slice for sample in found[:2]] == ["recall, plain", "recall, thinking"]


def test_a_perplexity_is_as_wide_as_what_it_says() -> None:
    shown = [eval_command._perplexity(value) for value in (1.0625, 12_345.6789, 8.516e22, float("inf"))]
    assert shown == ["1.062", "12,345.679", "8.52e+22", "inf"]
