"""Trap 12: a model whose activations float16 does not hold is not exported to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Exaone4ForCausalLM

from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.exporter.calibrate.scales.file import ScalesFile
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import export
from exaone_export.exporter.reference.range_check import (
    largest_activations,
    refuse_float16_overflow,
    refuse_float16_ranges,
)
from exaone_export.exporter.reference.weights import read_weight
from exaone_export.model.tensors import weight_table
from tests.conftest import SaveModel, random_model
from tests.exporter.quantized import random_scales


def test_the_largest_activation_of_each_layer_is_what_transformers_puts_out(save_model: SaveModel) -> None:
    folder = save_model()
    ids = torch.randint(3, 97, (1, 20), generator=torch.Generator().manual_seed(0))
    model = Exaone4ForCausalLM.from_pretrained(folder)
    seen: list[float] = [0.0] * 4
    for i, layer in enumerate(model.model.layers):
        for module in (*layer.modules(),):
            if isinstance(module, torch.nn.Linear) or module is layer or "layernorm" in type(module).__name__.lower():

                def hook(_module, _inputs, output, i=i):  # type: ignore[no-untyped-def]
                    output = output[0] if isinstance(output, tuple) else output
                    seen[i] = max(seen[i], output.abs().max().item())

                module.register_forward_hook(hook)

        def gated(_module, inputs, i=i):  # type: ignore[no-untyped-def]
            seen[i] = max(seen[i], inputs[0].abs().max().item())

        layer.mlp.down_proj.register_forward_pre_hook(gated)
    with torch.inference_mode():
        model(ids)
    got = list(largest_activations(Checkpoint.open(folder), ids))
    assert got == pytest.approx(seen, rel=1e-4)


def test_float16_is_refused_where_an_activation_would_overflow(tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight *= 3e5
    model.save_pretrained(tmp_path / "model")
    advice = "pass --precision float32 or bfloat16, or "
    with pytest.raises(ConfigError, match=rf"^layer 2 has activations up to .*: {advice}"):
        export(tmp_path / "model", tmp_path / "out", target="onnx", precision="float16", max_length=64)
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_float16_is_refused_where_the_gated_product_alone_would_overflow(tmp_path: Path) -> None:
    """Neither the gate nor the up projection leaves the range, and their product does."""
    model = random_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight *= 500
        model.model.layers[1].mlp.gate_proj.weight *= 500
        model.model.layers[1].mlp.down_proj.weight *= 1e-6
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"^layer 1 has activations up to "):
        refuse_float16_overflow(Checkpoint.open(tmp_path / "model"))


def test_what_is_not_a_number_is_refused_in_the_last_layer_too(tmp_path: Path) -> None:
    """Of QK-norms so large that scores overflow, the attention makes NaN, and finite numbers come before it."""
    model = random_model()
    with torch.no_grad():
        for norm in (model.model.layers[3].self_attn.q_norm, model.model.layers[3].self_attn.k_norm):
            norm.weight.fill_(1e30)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"^layer 3 has activations up to nan"):
        refuse_float16_overflow(Checkpoint.open(tmp_path / "model"))


def test_float16_is_refused_where_calibration_has_seen_more(random_hybrid: Path, tmp_path: Path) -> None:
    scales = ScalesFile.read(random_scales(random_hybrid, tmp_path / "s"), Checkpoint.open(random_hybrid).spec)
    refuse_float16_ranges(scales)
    seen = scales.ranges[2]["down"].channel_maximum
    seen[5] = 4e4
    with pytest.raises(ConfigError, match=r"^layer 2 has activations up to 4e\+04, .*--compute-type bfloat16"):
        refuse_float16_ranges(scales)
    seen[5] = 1.0
    scales.ranges[2]["qkv"].channel_maximum[5] = 4e4  # the residual stream is float32
    refuse_float16_ranges(scales)


def test_a_layer_that_is_kept_in_float16_reaches_what_it_does_without_smoothing(
    random_hybrid: Path, tmp_path: Path
) -> None:
    scales = ScalesFile.read(random_scales(random_hybrid, tmp_path / "s"), Checkpoint.open(random_hybrid).spec)
    factor = torch.full_like(scales.ranges[2]["down"].channel_maximum, 1e6)
    smoothed = replace(scales, tensors={"layers.2.down.smoothing": factor})
    refuse_float16_ranges(smoothed)
    with pytest.raises(ConfigError, match=r"^layer 2 has activations up to .*--compute-type bfloat16"):
        refuse_float16_ranges(replace(smoothed, kept={2: "float"}))


def test_a_weight_that_float16_does_not_hold_is_refused(tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.model.norm.weight[0] = 1e5
    model.save_pretrained(tmp_path / "model")
    checkpoint = Checkpoint.open(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"^tensor model\.norm\.weight holds 1e\+05, which float16 does not"):
        read_weight(checkpoint, weight_table(checkpoint.spec)["norm.weight"], torch.float16)
