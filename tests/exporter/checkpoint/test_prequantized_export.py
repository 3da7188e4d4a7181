"""Checkpoints that were published quantized become artifacts that hold their codes, and answer as those say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner

from exaone_export.cli.main import cli
from exaone_export.errors import CalibrationError, ConfigError, ExaoneExportError, TargetError
from exaone_export.exporter.calibrate.run import Options, calibrate
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.checkpoint.prequantized.config import read_form
from exaone_export.exporter.export import export, plan_export
from exaone_export.exporter.plan.options import ExportOptions
from exaone_export.exporter.plan.recipe import choose_recipe
from exaone_export.exporter.reference.side import ReferenceSide, transformers_side
from exaone_export.exporter.reference.weights import load_reference
from exaone_export.model.tensors import weight_table
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.target import TARGETS, get_target
from tests.conftest import TINY
from tests.exporter.checkpoint.test_prequantized import CASES, LAYER_TENSORS, SPEC, write

PROMPT = torch.arange(3, 23)[None]


def exported(
    tmp_path: Path, case: str, quantized: Sequence[str] = tuple(LAYER_TENSORS), **options: Any
) -> tuple[Checkpoint, Path]:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", case, quantized)
    checkpoint = Checkpoint.open(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", max_length=64, **options)
    return checkpoint, tmp_path / "out"


@pytest.mark.parametrize(
    ("case", "options", "words"),
    [
        (
            "gptq",
            {"precision": "int4", "cache": "int8"},
            "are already quantized and do not change; calibrate it with",
        ),
        ("int8, static", {"precision": "int8", "smooth": "fold"}, "are already quantized and do not change"),
        ("fp8, dynamic", {"precision": "fp8", "keep_layers": "10%"}, "are already quantized and do not change"),
        ("gptq", {"precision": "int8"}, "already quantized to int4, and int8 would round it a second time"),
    ],
)
def test_what_a_quantized_checkpoint_does_not_take_is_refused_before_the_calibration(
    case: str, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", case)
    with pytest.raises(ExaoneExportError, match=words):
        calibrate(tmp_path / "model", tmp_path / "scales", data=tmp_path / "not read", options=Options(**options))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("case", "options", "export_options"),
    [
        ("gptq", Options(cache="int8"), {"cache_precision": "int8"}),
        ("fp8, dynamic", Options("fp8", method="mse"), {"target": "tensorrt"}),
        ("fp8, dynamic", Options(), {"target": "tensorrt"}),
    ],
)
def test_what_a_quantized_checkpoint_is_calibrated_for_can_be_exported(
    case: str, options: Options, export_options: dict[str, Any], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    write(model, case)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, model)
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"text": "!#$%" * 8}) + "\n")
    scales = tmp_path / "scales"
    calibrate(model, scales, data=data, options=options)
    assert plan_export(model, max_length=64, calibration=scales, **export_options).scales is not None


@pytest.mark.parametrize(
    "case",
    [
        "gptq",
        "awq",
        "int8 per tensor",
    ],
)
def test_the_cpu_answers_as_the_codes_say(case: str, tmp_path: Path) -> None:
    checkpoint, out = exported(tmp_path, case, target="ort-cpu")
    with ExaoneForCausalLM.from_pretrained(out) as model, torch.no_grad():
        found = model(PROMPT).logits[0]
    layout = CacheLayout.plan(checkpoint.spec.layers, 64, slack=0)
    wanted = ReferenceSide(load_reference(checkpoint, layout)).outputs(PROMPT[0])["logits"]
    # What differs is what the operators do to their inputs, and the rounded embedding and vocabulary projection.
    kl = (wanted.softmax(-1) * (wanted.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()
    assert kl < 0.02 * wanted.var(-1).mean()
    assert torch.corrcoef(torch.stack((found.flatten(), wanted.flatten())))[0, 1] > 0.98


@pytest.mark.parametrize("name", CASES)
def test_the_baseline_is_what_the_codes_stand_for(name: str, tmp_path: Path) -> None:
    """transformers itself would want the program that made each form."""
    made = write(tmp_path, name)
    checkpoint = Checkpoint.open(tmp_path)
    with transformers_side(checkpoint) as side:
        state = side._model.state_dict()  # type: ignore[attr-defined]
    assert state.keys() == {"model.embed_tokens.weight", "lm_head.weight"} | checkpoint_names(checkpoint)
    assert all(torch.equal(state[one], weight.value()) for one, weight in made.items())
    assert torch.equal(state["model.norm.weight"], checkpoint.read("model.norm.weight").float())


def test_parity_with_a_checkpoint_that_transformers_cannot_open(tmp_path: Path) -> None:
    _, out = exported(tmp_path, "int8 per tensor", target="ort-cpu")
    result = CliRunner().invoke(
        cli, ["parity", str(out), str(tmp_path / "model"), "--length", "8", "--tokens", "2", "--json"]
    )
    rows = {row["side"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["reference"]["passed"]
    assert rows["ort-cpu"]["kl"] < 0.1  # random weights make much of the inputs' rounding


def checkpoint_names(checkpoint: Checkpoint) -> set[str]:
    return {name for source in weight_table(checkpoint.spec).values() for name in source.names}


SEVERAL = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.o_proj.weight"]


@pytest.mark.parametrize(
    ("case", "left", "floats"),
    [
        (
            "int4 by groups",
            [name for name in LAYER_TENSORS if ".layers.0." in name],
            {0: ["qkv", "output", "gate_up", "down"]},
        ),
        ("int4 by groups", ["model.layers.1.mlp.down_proj.weight"], {1: ["down"]}),
        ("int4 by groups", ["model.layers.1.self_attn.q_proj.weight"], {1: ["qkv"]}),
        ("gptq, zero points", SEVERAL, {0: ["gate_up"], 1: ["output"]}),
        ("int8, static", SEVERAL, {0: ["gate_up"], 1: ["output"]}),
    ],
    ids=["a layer", "a projection", "one of three in a product", "with zero points", "with static activations"],
)
def test_projections_that_were_left_in_floating_point(
    case: str, left: list[str], floats: dict[int, list[str]], tmp_path: Path
) -> None:
    target = "tensorrt-rtx" if case == "int8, static" else "ort-cpu"
    options: dict[str, Any] = {"target": target, "compute_type": "float32"}
    if target == "tensorrt-rtx":
        options |= {"prefill_chunk": 16}
    checkpoint, out = exported(tmp_path, case, [name for name in LAYER_TENSORS if name not in left], **options)
    manifest = json.loads((out / "exaone_export.json").read_text())
    for layer in manifest["layers"]:
        for part, weights in layer["precision"].items():
            kept = part in floats.get(layer["index"], [])
            assert weights == ("float32" if kept else CASES[case].weights), (layer["index"], part)
    initializers = ir.load(out / "model.onnx").graph.initializers
    names = {"qkv": "attention.qkv", "output": "attention.output", "gate_up": "mlp.gate_up", "down": "mlp.down"}
    for layer, parts in floats.items():
        for part in parts:
            weight = f"body.layers.{layer}.{names[part]}.weight"
            published = [checkpoint.read(one).float() for one in weight_table(SPEC)[weight].names]
            stored = initializers[weight].const_value.numpy()
            np.testing.assert_array_equal(stored, torch.cat(published).T.numpy())
            assert stored.dtype == np.float32


def test_a_checkpoint_is_exported_as_the_weights_that_its_codes_stand_for(tmp_path: Path) -> None:
    checkpoint, out = exported(tmp_path, "method fp8", target="ort-cpu", precision="float32")
    with ExaoneForCausalLM.from_pretrained(out) as model, torch.no_grad(), transformers_side(checkpoint) as baseline:
        found, wanted = model(PROMPT).logits[0], baseline.outputs(PROMPT[0])["logits"]
    assert (found - wanted).abs().max() < 1e-4 * wanted.std()


def recipe_or_advice(case: str, target: str, precision: str | None, compute_type: str | None) -> str | None:
    """What is to be done in place of these options; None where they can be followed."""
    form = read_form({"quantization_config": CASES[case].config})
    assert form is not None
    try:
        options = ExportOptions(precision=precision, compute_type=compute_type)
        choose_recipe(SPEC, form.quantization, get_target(target), options)
    except (ConfigError, TargetError) as error:
        assert str(error).endswith(".")
        return str(error).rpartition("; ")[2].rstrip(".")
    return None


@pytest.mark.parametrize("compute_type", [None, "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_all_advice_works_when_it_is_followed(case: str, compute_type: str | None) -> None:
    for target, precision in product(TARGETS, (None, *PRECISIONS)):
        advice = recipe_or_advice(case, target, precision, compute_type)
        for way in advice.split(", or ") if advice is not None else ():
            followed: list[tuple[str, str | None, str | None]] = []
            if match := re.fullmatch(r"pass --target (.+?)( and leave --precision out)?", way):
                left = None if match[2] else precision
                followed = [(name, left, compute_type) for name in match[1].split(" or ")]
            elif match := re.fullmatch(r"pass --precision (\w+)( alone)? to export the weights that .*", way):
                followed = [(target, match[1], None if match[2] else compute_type)]
            elif match := re.fullmatch(r"leave (--precision)?( and )?(--compute-type)? out", way):
                followed = [(target, None if match[1] else precision, None if match[3] else compute_type)]
            assert followed, way
            for options in followed:
                assert recipe_or_advice(case, *options) is None, (target, precision, way)


def test_codes_are_stored_as_they_were_published(tmp_path: Path) -> None:
    checkpoint, out = exported(tmp_path, "gptq, zero points", target="ort-cpu")
    initializers = ir.load(out / "model.onnx").graph.initializers
    name = "body.layers.1.mlp.gate_up.weight"
    published = checkpoint.read_quantized(weight_table(SPEC)[name].names)
    packed = initializers[f"{name}.quantized"].const_value.numpy().reshape(len(published.values), -1)
    codes = np.stack((packed & 0xF, packed >> 4), -1).reshape(len(packed), -1).astype(np.int8) - 8
    np.testing.assert_array_equal(codes, published.values.numpy())
    np.testing.assert_array_equal(initializers[f"{name}.scale"].const_value.numpy(), published.scale.float().numpy())
    manifest = json.loads((out / "exaone_export.json").read_text())
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert manifest["precision"] == "int4"
    assert manifest["recipe"]["zero_points"] is True


def test_static_scales_of_fp8_come_from_the_checkpoint(tmp_path: Path) -> None:
    checkpoint, out = exported(
        tmp_path, "fp8, static", target="tensorrt-rtx", compute_type="bfloat16", prefill_chunk=16
    )
    initializers = ir.load(out / "model.onnx").graph.initializers
    name = "body.layers.0.attention.qkv"
    wanted = checkpoint.read_input_scale(weight_table(SPEC)[f"{name}.weight"].names)
    assert wanted is not None
    assert initializers[f"{name}.input_scale"].const_value.numpy() == wanted.numpy()


@pytest.mark.parametrize(
    ("case", "error", "message", "options"),
    [
        ("awq", ConfigError, "already quantized to int4, and int8 would round it a second time", {"precision": "int8"}),
        ("awq", ConfigError, "with zero points have no operator on target tensorrt-rtx", {"target": "tensorrt-rtx"}),
        ("gptq of 8 bits, zero points", ConfigError, "with zero points have no operator on target ort-cpu", {}),
        (
            "fp8, static",
            TargetError,
            "^the checkpoint is quantized to fp8, which target ort-cpu does not run; pass --target tensorrt or "
            "tensorrt-rtx or tensorrt-plugin, or pass --precision float32 to export the weights that the codes stand "
            "for.$",
            {},
        ),
        ("fp8, static", TargetError, "which target ort-cpu does not run; pass --target", {"precision": "fp8"}),
        ("fp8, dynamic", CalibrationError, "run: exaone-export calibrate", {"target": "tensorrt-rtx"}),
        ("method fp8", ConfigError, "in blocks of 16 have no operator on target", {"target": "tensorrt-rtx"}),
    ],
)
def test_what_a_target_has_no_form_for_is_refused(
    case: str, error: type[ExaoneExportError], message: str, options: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", case)
    with pytest.raises(error, match=message):
        export(tmp_path / "model", tmp_path / "out", max_length=64, **({"target": "ort-cpu"} | options))
    assert not (tmp_path / "out").exists()
