"""Smoothing of EXAONE 3, whose norms stand in front of the products: it folds, and nothing stays in the graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from exaone_export.exporter.calibrate.run import calibrate
from exaone_export.exporter.calibrate.scales.file import ScalesFile
from exaone_export.exporter.calibrate.smoothing import apply_smoothing, explicit, folded
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import export, plan_export
from exaone_export.exporter.reference.layer_stream import stream_layers
from exaone_export.exporter.reference.side import transformers_side
from exaone_export.model.published import PUBLISHED
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.runtime.parity.compare import LIMITS, compare, random_prompts
from exaone_export.runtime.parity.sides import artifact_side
from tests.conftest import TINY
from tests.exporter.calibrate.calibration_models import TEXTS, write_lines
from tests.families import family_model, needs_exaone3

pytestmark = needs_exaone3


@pytest.fixture(scope="module")
def model(shared: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exaone3") / "model"
    shutil.copytree(family_model(shared, "exaone", vocab_size=843, num_hidden_layers=2), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("scales")
    data = write_lines(folder / "data.jsonl", *TEXTS)

    def make(**options: str) -> Path:
        out = folder / f"{'-'.join(options.values())}.safetensors"
        if not out.exists():
            calibrate(model, out, data=data, **options)
        return out

    return make


def test_what_folds_depends_on_where_the_norms_stand(model: Path) -> None:
    assert folded(PUBLISHED["1.2b"]) == ("output", "down")
    assert explicit(PUBLISHED["1.2b"]) == ("qkv", "gate_up")
    spec = Checkpoint.open(model).spec
    assert folded(spec) == tuple(PROJECTIONS)
    assert explicit(spec) == ()


def test_a_smoothed_layer_computes_what_it_did(model: Path, made: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(model)
    scales = ScalesFile.read(made(precision="int8", smooth="fold"), checkpoint.spec)
    assert scales.smoothed == tuple(PROJECTIONS)
    for streamed in stream_layers(checkpoint, [torch.arange(3, 60)[None]]):
        exact, _ = streamed.forward(streamed.hidden[0])
        factors = {part: scales.smoothing(streamed.index, part) for part in PROJECTIONS}
        assert all(factor is not None and factor.max() > 1.5 * factor.min() for factor in factors.values())
        apply_smoothing(streamed, factors)
        smoothed, _ = streamed.forward(streamed.hidden[0])
        assert (smoothed - exact).abs().max() < 1e-4 * exact.std()
        streamed.run()


@pytest.mark.parametrize(
    ("target", "options"),
    [("ort-cpu", {"precision": "int4", "weights": "awq"}), ("tensorrt-rtx", {"precision": "int8", "smooth": "fold"})],
    ids=["awq", "smoothquant"],
)
def test_norms_of_the_graph_are_divided_and_no_node_is_added(
    target: str, options: dict[str, str], model: Path, made: Callable[..., Path], tmp_path: Path
) -> None:
    precision, calibration = options["precision"], made(**options)
    chosen = {"target": target, "precision": precision, "calibration": calibration, "max_length": 128}
    if target == "tensorrt-rtx":
        chosen |= {"prefill_chunk": 16, "compute_type": "float32"}
    plan = plan_export(model, **chosen)
    assert plan.recipe.smoothed == ()
    export(model, tmp_path / "artifact", **chosen)
    stored = {each.name: each for each in onnx.load(tmp_path / "artifact" / "model.onnx").graph.initializer}
    assert not [name for name in stored if name.endswith(".input_smoothing")]
    checkpoint = Checkpoint.open(model)
    scales = ScalesFile.read(calibration, checkpoint.spec)
    for norm, source, projection in (
        ("attention_norm", "input_layernorm", "qkv"),
        ("mlp_norm", "post_attention_layernorm", "gate_up"),
    ):
        found = numpy_helper.to_array(stored[f"body.layers.1.{norm}.weight"])
        wanted = checkpoint.read(f"model.layers.1.{source}.weight") / scales.smoothing(1, projection)
        assert torch.equal(torch.tensor(found), wanted)
    sides = {
        "transformers": (partial(transformers_side, checkpoint), LIMITS["float32"]),
        target: (partial(artifact_side, tmp_path / "artifact"), LIMITS[precision]),
    }
    report = compare(sides, random_prompts(843, [60], seed=1), new_tokens=0)
    assert report.passed, report.rows
