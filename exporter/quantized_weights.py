"""The tensors that quantization puts in the place of a product's weight, made when they are written."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from exaone_export.calibration.number_formats import FORMATS, NumberFormat
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.scales_file import ScalesFile
from exaone_export.exporter.stored_weights import CHANNELS, EXPLICIT, NBITS, ROWS, StoredWeight, pack_nibbles
from exaone_export.exporter.weights import WeightReader, weight_sources
from exaone_export.graphs.passes.quantize_products import WEIGHT_NAMES, input_scale_name, quantized_name, scale_name
from exaone_export.graphs.passes.quantized_kernels import EMBEDDING, HEAD, zero_point_name
from exaone_export.precision import FLOATS, Recipe, Storage

# Rows are rounded some at a time, because the division is done in float32. Much smaller parts would come from the heap,
# which gives nothing back while an export runs.
_ROWS_BYTES = 64 << 20


def quantized_readers(checkpoint: Checkpoint, recipe: Recipe, scales: ScalesFile | None) -> dict[str, WeightReader]:
    """For every tensor that a recipe adds to a graph, by name, the call that makes it.

    Args:
        checkpoint: Where weights come from.
        recipe: Which are quantized, and how.
        scales: The ranges of the products' inputs, where the recipe rounds them by calibration.
    """
    spec = checkpoint.spec
    readers: dict[str, WeightReader] = {}
    for layer in range(spec.num_hidden_layers):
        for part, suffix in WEIGHT_NAMES.items():
            name, storage = f"body.layers.{layer}.{suffix}", recipe.product(layer, part)
            if storage is None:
                continue
            source = weight_sources(spec)[name].names
            readers |= _weight_readers(name, _Weight(checkpoint, source, storage, _layout(recipe, storage), recipe))
            if storage.inputs is not None and not recipe.kernels:
                assert scales is not None
                found = scales.ranges[layer][part].range
                readers[input_scale_name(name)] = _input_scale(FORMATS[storage.inputs], found)
    embedding = weight_sources(spec)[EMBEDDING].names
    if recipe.head is not None:
        source = embedding if spec.tie_word_embeddings else weight_sources(spec)[HEAD].names
        readers |= _weight_readers(HEAD, _Weight(checkpoint, source, recipe.head, _layout(recipe, recipe.head), recipe))
    if recipe.embedding is not None:
        readers |= _weight_readers(EMBEDDING, _Weight(checkpoint, embedding, recipe.embedding, ROWS["int8"], recipe))
    return readers


def _weight_readers(name: str, weight: _Weight) -> dict[str, WeightReader]:
    readers = {quantized_name(name): weight.values, scale_name(name): weight.scale}
    return readers | ({zero_point_name(name): weight.zero_point} if weight.storage.zero_points else {})


def _layout(recipe: Recipe, storage: Storage) -> StoredWeight:
    if not recipe.kernels:
        return EXPLICIT[storage.weights]
    return (NBITS if storage.block else CHANNELS)[storage.weights]


def _input_scale(number_format: NumberFormat, found: float) -> WeightReader:
    return lambda dtype: number_format.scale(torch.tensor(found), dtype)


class _Weight:
    """One weight with its scales and zero points, from one reading; what is not asked for yet is kept until then."""

    def __init__(
        self, checkpoint: Checkpoint, names: tuple[str, ...], storage: Storage, layout: StoredWeight, recipe: Recipe
    ) -> None:
        self.storage = storage
        self._checkpoint, self._names, self._layout, self._recipe = checkpoint, names, layout, recipe
        # Explicit quantization of a product's inputs wants both scales alike, in float32; float16 loses small ones.
        explicit = storage.inputs is not None
        self._scale_dtype = {name: getattr(torch, name) for name in FLOATS}[
            "float32" if explicit else recipe.compute_type
        ]
        self._kept: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()  # the writer has two threads

    def values(self, _dtype: torch.dtype) -> torch.Tensor:
        """In the operator's layout."""
        return self._take("values")

    def scale(self, dtype: torch.dtype) -> torch.Tensor:
        """In the operator's layout."""
        assert dtype == self._scale_dtype
        return self._take("scale")

    def zero_point(self, _dtype: torch.dtype) -> torch.Tensor:
        """``[out, in / block / 2]`` uint8, two to a byte."""
        return self._take("zero_point")

    def _take(self, which: str) -> torch.Tensor:
        with self._lock:
            if which not in self._kept:
                self._kept = self._quantize()
            return self._kept.pop(which)

    def _quantize(self) -> dict[str, torch.Tensor]:
        weights = [self._checkpoint.read(name) for name in self._names]
        outputs, axis, done = sum(map(len, weights)), self._layout.output_axis, 0
        values, scales, zero_points = None, [], []
        for part in self._rounded(weights):
            rows = self._layout.values(part.values, self.storage.block)
            scales.append(part.scale)
            if part.zero_point is not None:
                zero_points.append(pack_nibbles(part.zero_point))
            if axis:
                rows = rows.T
            if values is None:
                shape = list(rows.shape)
                shape[axis] = outputs * shape[axis] // len(part.values)
                values = rows.new_empty(shape)
            values.narrow(axis, done, rows.shape[axis]).copy_(rows)
            done += rows.shape[axis]
        assert values is not None
        made = {"values": values, "scale": self._layout.scale(torch.cat(scales))}
        return made | ({"zero_point": torch.cat(zero_points)} if zero_points else {})

    def _rounded(self, weights: list[torch.Tensor]) -> Iterator[QuantizedWeight]:
        """The weights of all names, some rows at a time."""
        at_once = max(_ROWS_BYTES // (4 * weights[0].shape[1]), 2) // 2 * 2
        for part in (part for weight in weights for part in weight.split(at_once)):
            yield round_weight(
                part,
                self._layout.number_format or FORMATS[self.storage.weights],
                block=self.storage.block,
                scale_dtype=self._scale_dtype,
                asymmetric=self.storage.zero_points,
                search=self._recipe.kernels and self.storage.weights == "int4",
            )
