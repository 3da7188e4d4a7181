"""Every form of an engine's graph: made, read back, built by TensorRT-RTX, and its numbers run on the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoTokenizer, Exaone4ForCausalLM

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import CalibrationError, ConfigError, GraphContradictionError, TargetError
from exaone_export.exporter.build import engine
from exaone_export.exporter.build.plan import plan_build
from exaone_export.exporter.calibrate.run import calibrate
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.checkpoint.random_checkpoint import PUBLISHED
from exaone_export.exporter.export import export, plan_export
from exaone_export.graphs.verify import verify
from exaone_export.model.config.reading import read_spec
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.recipe import Recipe
from tests.conftest import TINY, SaveModel
from tests.examples.scripts import imported
from tests.exporter.quantized import FORMS, constant_scales, random_scales, write_zero_checkpoint
from tests.parity.test_random_configurations import CONFIGURATIONS, describe

MAX_LENGTH = 1024
# Mean divergence from float32 PyTorch, in nats, on held-out lines of what the tiny checkpoint was trained for; about
# twice what was measured, so that a broken scale is seen.
KL = {"float16": 1e-4, "int8-weights": 5e-4, "fp8": 8e-3, "int8": 3e-2, "int4": 5e-2}
QUANTIZED = [name for name, precision in PRECISIONS.items() if precision.weights is not None]


def calibration_lines(seed: int, samples: int) -> list[dict[str, str]]:
    """Lines of the tiny checkpoint's tasks, none of them held out."""
    command = ["calibration.py", "--seed", str(seed), "--samples", str(samples)]
    with (
        imported(TINY / "training" / "calibration.py") as script,
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        patch.setattr(sys, "argv", command)
        script.main()
    return [json.loads(line) for line in printed.getvalue().splitlines()]


@pytest.fixture(scope="module")
def scales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scales")
    lines = calibration_lines(seed=1, samples=64)
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    calibrate(TINY, folder / "tiny.safetensors", data=folder / "data.jsonl")
    return folder / "tiny.safetensors"


@pytest.fixture(scope="module")
def tiny(scales: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The tiny checkpoint as the graph of an engine: ``tiny(precision, compute_type)``."""
    folder = tmp_path_factory.mktemp("tiny")

    def make(precision: str, compute_type: str = "float16") -> Path:
        out = folder / f"{precision}-{compute_type}"
        options: dict[str, Any] = {"precision": precision, "max_length": MAX_LENGTH, "prefill_chunk": 64}
        if PRECISIONS[precision].weights is not None:
            options["compute_type"] = compute_type
        if PRECISIONS[precision].activations is not None:
            options["calibration"] = scales
        if not out.exists():
            export(TINY, out, target="tensorrt-rtx", **options)
        return out

    return make


@pytest.fixture(scope="module")
def held_out() -> list[torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    lines = calibration_lines(seed=99, samples=8)
    return [tokenizer(line["text"], return_tensors="pt").input_ids for line in lines]


@pytest.fixture(scope="module")
def wanted(held_out: list[torch.Tensor]) -> list[torch.Tensor]:
    theirs = Exaone4ForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [theirs(ids).logits[0].log_softmax(-1) for ids in held_out]


@pytest.mark.parametrize("precision", KL)
def test_the_distributions_stay_near_float32(
    precision: str, tiny: Callable[..., Path], held_out: list[torch.Tensor], wanted: list[torch.Tensor]
) -> None:
    """Through the code that drives the cache: steps of 64, a window of 32, evicted behind every step."""
    total, count = 0.0, 0
    with ExaoneForCausalLM.from_pretrained(tiny(precision), threads=1) as model:
        assert model.session.longest_step == 64
        for ids, want in zip(held_out, wanted, strict=True):
            got = model(ids).logits[0].float().log_softmax(-1)
            total += (want.exp() * (want - got)).sum().item()
            count += len(want)
    assert 0 < total / count < KL[precision]


@pytest.fixture(scope="module")
def evaluation() -> Iterator[Any]:
    """The module that asks the tiny checkpoint its tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY / "training"))
        yield importlib.import_module("evaluate")


@pytest.mark.parametrize("precision", ["int8", "int4"])  # those that lose most
def test_the_replies_are_the_expected_ones(precision: str, tiny: Callable[..., Path], evaluation: Any) -> None:
    """Greedy, in left-padded batches, recall across three windows and more among them."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    with ExaoneForCausalLM.from_pretrained(tiny(precision), threads=1) as model:
        accuracies = evaluation.evaluate(model, tokenizer, 8, ("recall", "far recall", "arithmetic", "tool call"))
    assert {row["accuracy"] for row in accuracies.values()} == {1.0}, accuracies


def parse_check_and_build(artifact: Path, profiles: int = 1) -> None:
    """All of a build but the writing, with the prefill profile alone or with both."""
    plan = plan_build(artifact, max_batch=2)
    plan = dataclasses.replace(plan, info=msgspec.structs.replace(plan.info, profiles=plan.info.profiles[:profiles]))
    built = engine._build(plan, engine.parse_and_check(plan), lambda *_: None, None)
    assert built.nbytes > 0


# Every second configuration has every number of layers, shape of heads and kind of window; there is a build for each.
BUILDS = [*((form, None) for form in FORMS), *((form, "bfloat16") for form in QUANTIZED)]
BUILT = CONFIGURATIONS[::-2]


@pytest.mark.parametrize(("number", "case"), enumerate(BUILT), ids=map(describe, BUILT))
def test_every_form_of_random_configurations_builds(
    number: int, case: dict[str, Any], save_model: SaveModel, tmp_path: Path, all_forms: bool
) -> None:
    """The check counts the native layers: a pair of cache updates and one attention for every layer."""
    model = save_model(seed=1, **(case | {"hidden_size": 64, "intermediate_size": 96}))
    for form, compute_type in BUILDS if all_forms else [BUILDS[number % len(BUILDS)]]:
        out, given = tmp_path / f"{form}-{compute_type}", {}
        if PRECISIONS[form].activations is not None:
            given["calibration"] = random_scales(model, tmp_path / "scales.safetensors")
        if compute_type is not None:
            given["compute_type"] = compute_type
        options = {"target": "tensorrt-rtx", "max_length": 400, "prefill_chunk": 16, **given}
        manifest = export(model, out, precision=form, **options)
        stored = {kind for layer in manifest.layers for kind in layer["precision"].values()}
        assert stored == {PRECISIONS[form].weights or form}
        parse_check_and_build(out, profiles=2 if compute_type is None else 1)


# One test for all forms: a build in the real sizes holds 6 GB, and two workers would build at the same time.
def test_a_layer_of_each_kind_of_the_32b_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_forms: bool
) -> None:
    """A local layer and a global one, with the attention's real sizes, and weights of zero: a build sees none.

    The products beside it, which hold most of the weights, are small unless all forms are built.
    """
    whole = PUBLISHED["32b"].to_config()
    config = whole | {"num_hidden_layers": 2, "layer_types": whole["layer_types"][2:4], "vocab_size": 1024}
    config |= {} if all_forms else {"intermediate_size": 2048}
    model, scales = tmp_path / "model", tmp_path / "scales.safetensors"
    write_zero_checkpoint(model, read_spec(config))
    constant_scales(model, scales)
    monkeypatch.setattr("exaone_export.exporter.export.refuse_float16_overflow", lambda *_, **__: None)
    out = tmp_path / "artifact"
    for form in FORMS if all_forms else ["bfloat16"]:
        given = {"calibration": scales} if PRECISIONS[form].activations else {}
        manifest = export(model, out, target="tensorrt-rtx", precision=form, max_length=8192, **given)
        assert [layer["window"] for layer in manifest.layers] == [4096, 0]
        assert [layer["position"] for layer in manifest.layers] == ["rope", "none"]
        parse_check_and_build(out)
        shutil.rmtree(out)  # gigabytes


@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_graph_holds_the_formats_of_its_recipe(precision: str, tiny: Callable[..., Path]) -> None:
    artifact = Artifact.open(tiny(precision))
    graph = ir.load(artifact.model_path).graph
    counts = Counter(node.op_type for node in graph)
    products = 4 * 8
    rounded = PRECISIONS[precision].activations is not None
    assert counts["DequantizeLinear"] == products * (2 if rounded else 1)
    assert counts["QuantizeLinear"] == (products if rounded else 0)
    stored = {str(PRECISIONS[precision].weights)}
    assert {kind for layer in artifact.manifest.layers for kind in layer["precision"].values()} == stored
    # Nothing of a product's weight is left in floating point, and nothing is transposed or cast when it is loaded.
    assert not any(
        name.endswith(".weight") and ".layers." in name and "norm" not in name for name in graph.initializers
    )
    assert artifact.manifest.recipe["head"] == "float16"


def test_weights_are_what_onnx_says_of_them(tiny: Callable[..., Path]) -> None:
    """``w' = q * scale`` is within half a step of the checkpoint's weight, per channel and per block.

    The scale of an int4 block is searched for, and may leave its largest weights outside the codes.
    """
    weight = Checkpoint.open(TINY).read("model.layers.1.mlp.down_proj.weight").float().numpy().T
    for precision, block in (("int8", 0), ("int4", 128)):
        initializers = ir.load(tiny(precision) / "model.onnx").graph.initializers
        name = "body.layers.1.mlp.down.weight"
        values = initializers[f"{name}.quantized"].const_value.numpy().astype(np.float32)
        scale = initializers[f"{name}.scale"].const_value.numpy().astype(np.float32)
        if block:
            size = Artifact.open(tiny(precision)).manifest.recipe["blocks"]["down"]
            scale = np.repeat(scale, size, 0)
        held = np.clip(weight, -8 * scale, 7 * scale) if block else weight
        assert (np.abs(values * scale - held) <= 0.502 * scale + 1e-7).all()
        assert np.abs(values * scale - weight).max() < 0.2 * np.abs(weight).max()


def test_each_weight_is_read_once(scales: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, counts = Checkpoint.read_rows, Counter[str]()

    def counting(self: Checkpoint, name: str, rows: int) -> Iterator[torch.Tensor]:
        counts[name] += 1
        return read(self, name, rows)

    plan_export(TINY, target="tensorrt-rtx", precision="int8", calibration=scales)
    monkeypatch.setattr(Checkpoint, "read_rows", counting)
    monkeypatch.setattr("exaone_export.exporter.export.refuse_float16_overflow", lambda *_, **__: None)
    export(TINY, tmp_path / "out", target="tensorrt-rtx", precision="int8", calibration=scales, max_length=64)
    # The scales of up to 256 channels lie in the graph, which is written first: what they are made of is read again.
    assert {count for name, count in counts.items() if "gate" in name or "up_proj" in name} == {1}
    assert max(counts.values()) <= 2
    assert len(counts) == len(Checkpoint.open(TINY).tensors)


def test_a_product_that_was_left_out_is_refused(tiny: Callable[..., Path]) -> None:
    artifact = Artifact.open(tiny("int8"))
    plan = plan_export(TINY, target="tensorrt-rtx", max_length=MAX_LENGTH, prefill_chunk=64)
    recipe = Recipe.plan(plan.checkpoint.spec, "int8", "float16")
    graph = ir.load(artifact.model_path)
    verify(graph, artifact.spec, plan.layout, recipe)
    product = next(
        node
        for node in graph.graph
        if node.op_type == "MatMul"
        and node.inputs[1].producer() is not None
        and "Cast" in node.inputs[1].producer().op_type
    )
    rounding = product.inputs[0].producer().inputs[0].producer().inputs[0].producer()
    assert rounding.op_type == "QuantizeLinear"
    product.inputs[0].producer().replace_input_with(0, rounding.inputs[0])
    with pytest.raises(
        GraphContradictionError, match="layer 0 of the graph has qkv inputs of None, and the model has int8"
    ):
        verify(graph, artifact.spec, plan.layout, recipe)


def test_what_cannot_be_is_refused_before_anything_is_written(
    scales: Path, random_hybrid: Path, tmp_path: Path
) -> None:
    def refused(error: type[Exception], message: str, model: Path = TINY, **options: Any) -> None:
        with pytest.raises(error, match=message):
            export(model, tmp_path / "out", **({"target": "tensorrt-rtx"} | options))
        assert not any(tmp_path.iterdir())

    refused(CalibrationError, "run: exaone-export calibrate MODEL", precision="fp8")
    refused(CalibrationError, "of another model", random_hybrid, precision="int8", calibration=scales)
    refused(TargetError, "does not run precision 'fp8'", target="ort-cpu", precision="fp8", calibration=scales)
    refused(ConfigError, "float32 quantizes nothing; leave --calibration out", target="ort-cpu", calibration=scales)
    unscaled = {"target": "ort-cpu", "precision": "int4", "cache_precision": "int8", "calibration": scales}
    refused(CalibrationError, "calibrate MODEL OUT --data FILE.jsonl --cache int8", **unscaled)
    refused(TargetError, "does not compute in 'int8'", precision="int4", compute_type="int8")
    refused(TargetError, "leave --cache-precision out, or pass --target ort-cpu", cache_precision="int8")
