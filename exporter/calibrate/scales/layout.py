"""Which tensors a scales file has, in what types and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.targets.precision import KEPT_FLOAT, PRECISIONS
from exaone_export.targets.recipe import Recipe

__all__ = ["expected_tensors", "place", "tensor_name"]

SCALE_TYPE = torch.bfloat16
"""Of weights' scales: float32 holds them exactly, and so does float16 but for the smallest."""

HEAD_VALUES, HEAD_SCALE = "head.values", "head.scale"
"""The vocabulary projection, rounded to int4."""

TensorKind = tuple[torch.dtype, tuple[int, ...]]


def tensor_name(layer: int, projection: str, what: str) -> str:
    """A tensor's name in the file."""
    return f"layers.{layer}.{projection}.{what}"


def place(layer: int | str, projection: str) -> str:
    """Where a tensor belongs, in words."""
    return f"layer {layer}'s cache" if projection == "cache" else f"layer {layer}'s {projection} projection"


def expected_tensors(spec: ModelSpec, about: Mapping[str, Any], *, has_head: bool) -> dict[str, TensorKind]:
    """Every tensor of a file with this header, with its type and shape.

    Args:
        spec: The architecture.
        about: The header.
        has_head: Whether a vocabulary projection is in it, where the options round one.
    """
    expected: dict[str, TensorKind] = {}
    for layer in range(spec.num_hidden_layers):
        for name, projection in PROJECTIONS.items():
            channels = (torch.float32, (projection.inputs(spec),))
            expected[tensor_name(layer, name, "range")] = (torch.float32, ())
            expected[tensor_name(layer, name, "channel_maximum")] = channels
            if name in about["smoothed"]:
                expected[tensor_name(layer, name, "smoothing")] = channels
        if about["cache_format"] is not None:
            for what in ("key_scale", "value_scale"):
                shape = (spec.num_key_value_heads, spec.head_dim)
                expected[tensor_name(layer, "cache", what)] = (torch.float32, shape)
        expected |= _weights(spec, about, layer)
    rounding = about["weights"]
    if has_head and rounding is not None and rounding.method == "gptq" and about["precision"] == "int4":
        block = rounding.blocks.get("qkv", spec.hidden_size)  # the head has the same inputs
        expected[HEAD_VALUES] = (torch.int8, (spec.vocab_size, spec.hidden_size // 2))
        expected[HEAD_SCALE] = (SCALE_TYPE, (spec.vocab_size, spec.hidden_size // block))
    return expected


def _weights(spec: ModelSpec, about: Mapping[str, Any], layer: int) -> dict[str, TensorKind]:
    rounding, kept = about["weights"], about["kept"].get(layer)
    if rounding is None or kept == KEPT_FLOAT:
        return {}
    precision = PRECISIONS[kept or about["precision"]]
    blocks = rounding.blocks if kept is None else Recipe.plan(spec, kept, "float32").blocks
    number_format = FORMATS[str(precision.weights)]
    found: dict[str, TensorKind] = {}
    for name, projection in PROJECTIONS.items():
        rows, columns, block = projection.outputs(spec), projection.inputs(spec), blocks.get(name, 0)
        stored = columns // 2 if number_format.name == "int4" else columns
        found[tensor_name(layer, name, "values")] = (number_format.storage, (rows, stored))
        shape = (rows, columns // block) if block else (rows,)
        found[tensor_name(layer, name, "scale")] = (SCALE_TYPE, shape)
    return found
