"""A parity check handed to Polygraphy: its comparator sees every departure, and its tools read the files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from polygraphy.comparator import AccuracyResults, RunResults
from polygraphy.datatype import DataType
from polygraphy.json import load_json

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.main import cli
from exaone_export.runtime.parity.compare import LIMITS, Collected
from exaone_export.runtime.parity.first_step import first_step
from exaone_export.runtime.parity.polygraphy_results import Mismatch, Verdict, hand_over, save_inputs
from tests.conftest import ROOT, TINY, SaveModel

LENGTHS, VOCAB_SIZE, HIDDEN_SIZE, LAYERS = (5, 3), 11, 4, 2
STRICT, LOOSE = LIMITS["float32"], LIMITS["float16"]


@pytest.fixture
def sides() -> dict[str, Collected]:
    """Two sides that agree, on two prompts."""
    generator = torch.Generator().manual_seed(0)
    made = Collected()
    for length in LENGTHS:
        made.outputs.append({"logits": torch.randn(length, VOCAB_SIZE, generator=generator)})
        made.tokens.append([4, 0, 7])
        made.layers.append([torch.randn(length, HIDDEN_SIZE, generator=generator) for _ in range(LAYERS)])
    same = Collected(
        [{name: output.clone() for name, output in outputs.items()} for outputs in made.outputs],
        [list(tokens) for tokens in made.tokens],
        [[layer.clone() for layer in layers] for layers in made.layers],
    )
    return {"theirs": made, "ours": same}


def verdict(sides: dict[str, Collected], folder: Path, limits: Any = STRICT) -> Verdict:
    (only,) = hand_over(sides, {"ours": limits}, folder)
    return only


def test_sides_that_agree_pass(sides: dict[str, Collected], tmp_path: Path) -> None:
    assert verdict(sides, tmp_path / "new" / "folder") == Verdict("theirs", "ours", len(LENGTHS), [])


@pytest.mark.parametrize("limits", [STRICT, LOOSE], ids=["float32", "float16"])
@pytest.mark.parametrize(("share", "passes"), [(0.99, True), (1.01, False)])
def test_a_logit_is_held_to_its_share_of_the_standard_deviation(
    share: float, passes: bool, limits: Any, sides: dict[str, Collected], tmp_path: Path
) -> None:
    limit = limits.logits * sides["theirs"].outputs[1]["logits"].std().item()
    sides["ours"].outputs[1]["logits"][2, 3] += share * limit
    found = verdict(sides, tmp_path, limits)
    assert found.passed is passes
    if not passes:
        (mismatch,) = found.mismatches
        assert (mismatch.prompt, mismatch.result) == (1, "logits")
        assert mismatch.largest == pytest.approx(share * limit, rel=1e-2)
        assert mismatch.limit == pytest.approx(limit)


def test_a_layer_that_departs_is_named(sides: dict[str, Collected], tmp_path: Path) -> None:
    sides["ours"].layers[0][1][4, 0] += 1
    (mismatch,) = verdict(sides, tmp_path, LOOSE).mismatches
    assert (mismatch.prompt, mismatch.result) == (0, "layers.1.output")


def test_a_token_that_differs_counts_where_tokens_must_be_the_same(sides: dict[str, Collected], tmp_path: Path) -> None:
    sides["ours"].tokens[1][2] = 8
    assert verdict(sides, tmp_path, STRICT).mismatches == [Mismatch(1, "tokens", 1.0, 0.0)]
    assert verdict(sides, tmp_path, LOOSE).passed


def test_nan_fails(sides: dict[str, Collected], tmp_path: Path) -> None:
    sides["ours"].outputs[0]["logits"][0, 0] = torch.nan
    assert [found.result for found in verdict(sides, tmp_path, LOOSE).mismatches] == ["logits"]


def test_another_shape_fails(sides: dict[str, Collected], tmp_path: Path) -> None:
    sides["ours"].outputs[0]["logits"] = sides["ours"].outputs[0]["logits"][:-1]
    shape, last = verdict(sides, tmp_path).mismatches
    assert shape == Mismatch(0, "logits", None, None)
    assert last.result == "next_logits"  # of another token


def test_the_files_load_again(sides: dict[str, Collected], tmp_path: Path) -> None:
    sides["ours"].outputs[1]["logits"][0, 0] += 1
    assert not verdict(sides, tmp_path).passed
    for name, side in sides.items():
        run = RunResults.load(str(tmp_path / f"{name}.json"))
        assert list(run.keys()) == [name]
        for i, results in enumerate(run[name]):
            assert list(results) == ["logits", "next_logits", "tokens", *(f"layers.{k}.output" for k in range(LAYERS))]
            np.testing.assert_array_equal(results["logits"], side.outputs[i]["logits"][None].numpy())
            np.testing.assert_array_equal(results["next_logits"][0, 0], side.outputs[i]["logits"][-1].numpy())
            assert results["tokens"].tolist() == [side.tokens[i]]
            np.testing.assert_array_equal(results["layers.1.output"], side.layers[i][1][None].numpy())
    (accuracy,) = AccuracyResults.load(str(tmp_path / "accuracy.json"))
    assert not accuracy
    assert accuracy.stats(("theirs", "ours")) == (1, 1, 2)


def test_what_was_not_collected_is_not_compared(sides: dict[str, Collected], tmp_path: Path) -> None:
    for side in sides.values():
        side.layers, side.tokens = [], [[] for _ in LENGTHS]
    assert verdict(sides, tmp_path).passed
    (run,) = RunResults.load(str(tmp_path / "ours.json")).values()
    assert all(list(results) == ["logits", "next_logits"] for results in run)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def polygraphy(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("polygraphy")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command_hands_both_sides_over(export_artifact: Callable[..., Path], tmp_path: Path) -> None:
    """Polygraphy then runs the graph itself on the prompts that were saved, and finds PyTorch's results."""
    artifact, folder, report = export_artifact(TINY, "ort-cpu", max_length=512), tmp_path / "new", tmp_path / "report"
    given = ("--length", "40", "--tokens", "4", "--locate", "--report", report)
    result = run("parity", artifact, TINY, *given, "--polygraphy", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-2:] == [
        "Polygraphy, reference compared with transformers: passed",
        "Polygraphy, ort-cpu compared with transformers: passed",
    ]
    assert [found["side"] for found in json.loads(report.read_text())["polygraphy"]] == ["reference", "ort-cpu"]
    names = ("accuracy.json", "inputs.json", "ort-cpu.json", "reference.json", "transformers.json")
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)

    graph = ("run", artifact / "model.onnx", "--onnxrt", "--onnx-outputs", "next_logits", "layers.7.output")
    results = ("--load-inputs", folder / "inputs.json", "--load-outputs", folder / "transformers.json")
    limit = ("--check-error-stat", "max", "--rtol", "0", "--atol")
    found = polygraphy(*graph, *results, *limit, "1e-4")
    assert found.returncode == 0, found.stdout
    assert "All outputs matched | Outputs: ['next_logits', 'layers.7.output']" in found.stdout
    assert polygraphy(*graph, *results, *limit, "1e-8").returncode == 1


def test_an_artifact_of_another_checkpoint_fails(
    save_model: SaveModel, export_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    artifact = export_artifact(save_model(), "ort-cpu")
    result = run("parity", artifact, save_model(1), "--length", "9", "--tokens", "4", "--polygraphy", tmp_path)
    assert result.exit_code == 1, result.output
    last = result.stdout[result.stdout.index("Polygraphy, reference") :].splitlines()
    assert last[:2] == [
        "Polygraphy, reference compared with transformers: passed",
        "Polygraphy, ort-cpu compared with transformers: FAILED",
    ]
    assert last[2].startswith("  prompt 0, logits: ")


def test_polygraphy_s_verdict_alone_fails_the_command(
    export_artifact: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disagreeing = Verdict("transformers", "ort-cpu", 1, [Mismatch(0, "layers.3.output", 0.5, 0.25)])
    monkeypatch.setattr("exaone_export.runtime.parity.polygraphy_results.hand_over", lambda *_, **__: [disagreeing])
    artifact = export_artifact(TINY, "ort-cpu", max_length=512)
    result = run("parity", artifact, TINY, "--length", "9", "--tokens", "0", "--polygraphy", tmp_path)
    assert result.exit_code == 1
    assert result.stdout.endswith("  prompt 0, layers.3.output: 5.0e-01, limit 2.5e-01\n")


def test_without_polygraphy_the_option_is_refused_before_any_work(
    export_artifact: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    monkeypatch.setitem(sys.modules, "polygraphy.comparator", None)
    result = run("parity", tmp_path / "none", tmp_path / "none", "--polygraphy", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output == (
        "error: a comparison by Polygraphy needs polygraphy, which is not installed; run: "
        "pip install 'exaone-export[polygraphy]'.\n"
    )
    assert not (tmp_path / "out").exists()
    artifact = export_artifact(TINY, "ort-cpu", max_length=512)
    assert run("parity", artifact, TINY, "--length", "9", "--tokens", "0").exit_code == 0


@pytest.mark.parametrize(("target", "precision"), [("ort-cpu", None), ("onnx", "bfloat16"), ("onnx", "float16")])
def test_the_saved_inputs_are_the_graph_s(
    target: str, precision: str | None, export_artifact: Callable[..., Path], tmp_path: Path, random_hybrid: Path
) -> None:
    artifact = Artifact.open(export_artifact(random_hybrid, target, precision=precision))
    prompts = [torch.tensor([3, 4, 5]), torch.tensor([6])]
    save_inputs(prompts, artifact, tmp_path)
    steps = load_json(str(tmp_path / "inputs.json"))
    for step, prompt in zip(steps, prompts, strict=True):
        assert list(step) == artifact.manifest.inputs
        assert step["input_ids"].tolist() == [prompt.tolist()]
        kinds = {str(DataType.from_dtype(step[name].dtype)) for name in step if name.startswith("past")}
        assert kinds == {precision or "float32"}


def test_no_inputs_are_saved_that_the_graph_does_not_take(
    random_hybrid: Path, export_artifact: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact.open(export_artifact(random_hybrid, "ort-cpu"))
    monkeypatch.setattr("exaone_export.targets.cache_layout.CacheLayout.longest_step", 8)
    save_inputs([torch.arange(3), torch.arange(9)], artifact, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("exaone_export.runtime.parity.polygraphy_results.MOST_CACHE_BYTES", 100_000)
    save_inputs([torch.arange(3), torch.arange(8)], artifact, tmp_path)
    assert not list(tmp_path.iterdir())
    save_inputs([torch.arange(3)], artifact, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["inputs.json"]


def test_a_first_step_is_dense_and_keeps_every_logit() -> None:
    step = first_step(np.array([[5, 6, 7], [8, 9, 10]]))
    assert step["position_ids"].tolist() == [[0, 1, 2]] * 2
    assert step["attention_mask"].sum(1).tolist() == [3, 3]
    assert step["logits_to_keep"].tolist() == [2, 1, 0]
    assert {array.dtype for array in step.values()} == {np.dtype(np.int64)}


def test_the_example_s_prompts_are_prompts_of_any_target(export_artifact: Callable[..., Path], tmp_path: Path) -> None:
    """Two targets whose caches have other shapes give the same."""
    ours, theirs = (export_artifact(TINY, target, max_length=512) / "model.onnx" for target in ("ort-cpu", "onnx"))
    common = ("--onnxrt", "--onnx-outputs", "logits", "layers.7.output")
    prompts = (*common, "--data-loader-script", "examples/polygraphy_inputs.py:Prompts")
    outputs = tmp_path / "ort-cpu.json"
    assert polygraphy("run", ours, *prompts, "--save-outputs", outputs).returncode == 0
    limits = ("--check-error-stat", "max", "--atol", "1e-3", "--rtol", "0")
    found = polygraphy("run", theirs, *prompts, "--load-outputs", outputs, *limits)
    assert found.returncode == 0, found.stdout
    assert "Passed: 2/2 iterations" in found.stdout
