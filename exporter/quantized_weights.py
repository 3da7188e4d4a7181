"""The tensors that quantization puts in the place of a product's weight, made when they are written."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from exaone_export.calibration.number_formats import FORMATS, NumberFormat
from exaone_export.calibration.weights import quantize_weight
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.scales_file import ScalesFile
from exaone_export.exporter.weights import WeightReader, weight_sources
from exaone_export.graphs.passes.quantize_products import WEIGHT_NAMES, input_scale_name, quantized_name, scale_name
from exaone_export.precision import FLOATS, Recipe

# Rows are rounded some at a time, because the division is done in float32. Much smaller parts would come from the heap,
# which gives nothing back while an export runs.
_ROWS_BYTES = 64 << 20


def quantized_readers(checkpoint: Checkpoint, recipe: Recipe, scales: ScalesFile | None) -> dict[str, WeightReader]:
    """For every tensor that a recipe adds to a graph, by name, the call that makes it.

    Args:
        checkpoint: Where weights come from.
        recipe: Which are quantized, and how.
        scales: The ranges of the products' inputs, where the recipe rounds them.
    """
    if recipe.precision.weights is None:
        return {}
    readers: dict[str, WeightReader] = {}
    for layer in range(checkpoint.spec.num_hidden_layers):
        for part, suffix in WEIGHT_NAMES.items():
            name = f"body.layers.{layer}.{suffix}"
            both = _Weight(checkpoint, name, FORMATS[recipe.weights], recipe.blocks.get(part, 0), _scale_type(recipe))
            readers[quantized_name(name)] = both.values
            readers[scale_name(name)] = both.scale
            if recipe.precision.activations is not None:
                assert scales is not None
                number_format = FORMATS[recipe.precision.activations]
                readers[input_scale_name(name)] = _input_scale(number_format, scales.ranges[layer][part].range)
    return readers


def _scale_type(recipe: Recipe) -> torch.dtype:
    name = "float32" if recipe.precision.activations is not None else recipe.compute_type
    return {name: getattr(torch, name) for name in FLOATS}[name]


def _input_scale(number_format: NumberFormat, found: float) -> WeightReader:
    return lambda dtype: number_format.scale(torch.tensor(found), dtype)


class _Weight:
    """One weight and its scales, from one reading; what is asked for second is kept until then."""

    def __init__(
        self, checkpoint: Checkpoint, name: str, number_format: NumberFormat, block: int, scale_dtype: torch.dtype
    ) -> None:
        self._names = weight_sources(checkpoint.spec)[name].names
        self._read: Callable[[str], torch.Tensor] = checkpoint.read
        self._format, self._block, self._scale_dtype = number_format, block, scale_dtype
        self._kept: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()  # the writer has two threads

    def values(self, _dtype: torch.dtype) -> torch.Tensor:
        """``[in, out]``; int4 two to a byte, ``[in, out / 2]``."""
        return self._take("values")

    def scale(self, dtype: torch.dtype) -> torch.Tensor:
        """``[out]``, or ``[in / block, out]``."""
        assert dtype == self._scale_dtype
        return self._take("scale")

    def _take(self, which: str) -> torch.Tensor:
        with self._lock:
            if which not in self._kept:
                self._kept = self._quantize()
            return self._kept.pop(which)

    def _quantize(self) -> dict[str, torch.Tensor]:
        weights = [self._read(name) for name in self._names]
        outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
        at_once = max(_ROWS_BYTES // (4 * inputs), 2) // 2 * 2
        columns, scales, done = None, [], 0
        for part in (part for weight in weights for part in weight.split(at_once)):
            rounded, scale = quantize_weight(part, self._format, block=self._block, scale_dtype=self._scale_dtype)
            scales.append(scale)
            if self._format.name == "int4":
                rounded = _pack(rounded)
            if columns is None:
                columns = rounded.new_empty(inputs, outputs * len(rounded) // len(part))
            columns[:, done : done + len(rounded)] = rounded.T
            done += len(rounded)
        assert columns is not None
        scale = torch.cat(scales)
        return {"values": columns, "scale": scale.T.contiguous() if self._block else scale}


def _pack(rows: torch.Tensor) -> torch.Tensor:
    """``[out, in]`` int4 in int8 to ``[out / 2, in]``: of two rows, the first in the low half of the byte.

    Turned, two neighbours of a row of ``[in, out]`` share a byte, as ONNX stores them.
    """
    return (rows[0::2] & 0xF) | (rows[1::2] << 4)
