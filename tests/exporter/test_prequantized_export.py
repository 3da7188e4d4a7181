"""Checkpoints that were published quantized become artifacts that hold their codes, and answer as those say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from exaone_export.cache_layout import CacheLayout
from exaone_export.errors import CalibrationError, ConfigError, ExaoneExportError, TargetError
from exaone_export.exporter.calibrate import Options, calibrate
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.pipeline import export, plan_export
from exaone_export.exporter.reference_side import ReferenceSide
from exaone_export.exporter.weights import load_reference, weight_sources
from exaone_export.runtime.generation import ExaoneForCausalLM
from tests.conftest import TINY
from tests.exporter.test_prequantized import SPEC, write

PROMPT = torch.arange(3, 23)[None]


def exported(tmp_path: Path, case: str, **options: Any) -> tuple[Checkpoint, Path]:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", case)
    checkpoint = Checkpoint.open(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", max_length=64, **options)
    return checkpoint, tmp_path / "out"


@pytest.mark.parametrize(
    ("case", "options", "words"),
    [
        (
            "gptq",
            {"precision": "int4", "cache": "int8"},
            "are quantized already and stay as they are; calibrate it with",
        ),
        ("int8, static", {"precision": "int8", "smooth": "fold"}, "are quantized already and stay as they are"),
        ("fp8, dynamic", {"precision": "fp8", "keep_layers": "10%"}, "are quantized already and stay as they are"),
        ("gptq", {"precision": "int8"}, "quantized to int4 already, and int8 would round it a second time"),
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
    wanted = ReferenceSide(load_reference(checkpoint, layout)).logits(PROMPT[0])
    # What differs is what the operators do to their inputs, and the rounded embedding and vocabulary projection.
    kl = (wanted.softmax(-1) * (wanted.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()
    assert kl < 0.02 * wanted.var(-1).mean()
    assert torch.corrcoef(torch.stack((found.flatten(), wanted.flatten())))[0, 1] > 0.98


def test_codes_are_stored_as_they_were_published(tmp_path: Path) -> None:
    checkpoint, out = exported(tmp_path, "gptq, zero points", target="ort-cpu")
    initializers = ir.load(out / "model.onnx").graph.initializers
    name = "body.layers.1.mlp.gate_up.weight"
    published = checkpoint.read_quantized(weight_sources(SPEC)[name].names)
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
    wanted = checkpoint.read_input_scale(weight_sources(SPEC)[f"{name}.weight"].names)
    assert wanted is not None
    assert initializers[f"{name}.input_scale"].const_value.numpy() == wanted.numpy()


@pytest.mark.parametrize(
    ("case", "error", "message", "options"),
    [
        ("awq", ConfigError, "quantized to int4 already, and int8 would round it a second time", {"precision": "int8"}),
        ("awq", ConfigError, "zero points needs an operator that takes them", {"target": "tensorrt-rtx"}),
        ("gptq of 8 bits, zero points", ConfigError, "zero points needs an operator that takes them", {}),
        ("fp8, dynamic", TargetError, "target ort-cpu does not run precision 'fp8'", {}),
        ("fp8, dynamic", CalibrationError, "run: exaone-export calibrate", {"target": "tensorrt-rtx"}),
        ("method fp8", ConfigError, "in blocks of 16 has no form on this target", {"target": "tensorrt-rtx"}),
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
