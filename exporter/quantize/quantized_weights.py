"""The tensors that quantization puts in the place of a product's weight, made when they are written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import torch

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.graphs.passes.group_query_attention import cache_scale_name
from exaone_export.graphs.passes.quantize_products import (
    input_scale_name,
    quantized_name,
    scale_name,
    smoothing_name,
)
from exaone_export.graphs.passes.quantized_kernels import zero_point_name
from exaone_export.model.tensors import EMBEDDING, HEAD, PROJECTIONS, vocabulary_weight, weight_name, weight_table
from exaone_export.targets.precision import Recipe, Storage

from ..calibrate.scales.file import ScalesFile
from ..calibrate.smoothing import weight_factors
from ..checkpoint.checkpoint import Checkpoint
from ..reference.weights import WeightReader, rows_at_once, stack
from .stored_weights import CHANNELS, EXPLICIT, NBITS, ROWS, StoredWeight, pack_nibbles


def quantized_readers(checkpoint: Checkpoint, recipe: Recipe, scales: ScalesFile | None) -> dict[str, WeightReader]:
    """For every tensor that a recipe adds to a graph, by name, the call that makes it.

    Args:
        checkpoint: Where weights come from.
        recipe: Which are quantized, and how.
        scales: The ranges of the products' inputs, where the recipe rounds them by calibration.
    """
    spec, table = checkpoint.spec, weight_table(checkpoint.spec)
    readers: dict[str, WeightReader] = {}
    for layer in range(spec.num_hidden_layers):
        for projection in PROJECTIONS:
            name, storage = weight_name(layer, projection), recipe.product(layer, projection)
            if storage is None:
                continue
            names = table[name].names
            weight = _Weight(checkpoint, names, storage, recipe)
            if checkpoint.quantization is not None:
                weight.published = partial(checkpoint.read_quantized, names)
            if scales is not None:
                if scales.has_weight(layer, projection):
                    weight.calibrated = partial(scales.weight, layer, projection)
                weight.rows, weight.columns = weight_factors(spec, projection, partial(scales.smoothing, layer))
            readers |= _weight_readers(name, weight)
            if storage.inputs is not None and not recipe.kernels:
                own = checkpoint.read_input_scale(names) if checkpoint.quantization is not None else None
                if own is None:
                    assert scales is not None
                    own = FORMATS[storage.inputs].scale(torch.tensor(scales.ranges[layer][projection].range))
                readers[input_scale_name(name)] = _constant(own)
            if projection in recipe.smoothed:
                assert weight.columns is not None
                readers[smoothing_name(name)] = _constant(weight.columns.reciprocal())
        if recipe.cache is not None:
            assert scales is not None
            # Where the products are not quantized, their weights are not smoothed either.
            cache = scales.cache(layer, smoothed=recipe.product(layer, "output") is not None)
            for which, scale in zip(("key", "value"), cache or (), strict=True):
                name = cache_scale_name(f"past_key_values.{layer}.{which}")
                readers[name] = _constant(scale[None, :, None])
    if recipe.head is not None:
        weight = _Weight(checkpoint, table[vocabulary_weight(spec)].names, recipe.head, recipe)
        if scales is not None and scales.has_head and recipe.head.weights == "int4":
            weight.calibrated = scales.head
        readers |= _weight_readers(HEAD, weight)
    if recipe.embedding is not None:
        weight = _Weight(checkpoint, table[EMBEDDING].names, recipe.embedding, recipe, ROWS["int8"])
        readers |= _weight_readers(EMBEDDING, weight)
    return readers


def _weight_readers(name: str, weight: _Weight) -> dict[str, WeightReader]:
    readers = {
        quantized_name(name): WeightReader(weight.values, weight, whole=weight.transposed),
        scale_name(name): WeightReader(weight.scale, weight),
    }
    return readers | (
        {zero_point_name(name): WeightReader(weight.zero_point, weight)} if weight.storage.zero_points else {}
    )


def _layout(recipe: Recipe, storage: Storage) -> StoredWeight:
    if not recipe.kernels:
        return EXPLICIT[storage.weights]
    return (NBITS if storage.block else CHANNELS)[storage.weights]


def _constant(tensor: torch.Tensor) -> WeightReader:
    def parts(dtype: torch.dtype) -> Iterator[torch.Tensor]:
        yield tensor.to(dtype).contiguous()

    return WeightReader(parts, parts)


class _Weight:
    """One weight with its scales and zero points, from one reading; what is not asked for yet is kept until then.

    Scales are small, and known when the last row is rounded: who takes the values first never has all of them at once,
    unless the operator wants them transposed.

    Attributes:
        storage: How it is stored.
        published: Reads its values, where the checkpoint's publisher has rounded it.
        calibrated: Reads some rows' values, where calibration has rounded it.
        rows: ``[out]``, what its rows are divided by before they are rounded; None for nothing.
        columns: ``[in]``, what its columns are multiplied by; None for nothing.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        names: tuple[str, ...],
        storage: Storage,
        recipe: Recipe,
        layout: StoredWeight | None = None,
    ) -> None:
        self.storage = storage
        self.published: Callable[[], QuantizedWeight] | None = None
        self.calibrated: Callable[[slice], QuantizedWeight | None] | None = None
        self.rows: torch.Tensor | None = None
        self.columns: torch.Tensor | None = None
        self._checkpoint, self._names, self._recipe = checkpoint, names, recipe
        self._layout = layout or _layout(recipe, storage)
        # Explicit quantization of a product's inputs wants both scales alike, in float32; float16 loses small ones.
        explicit = storage.inputs is not None
        self._scale_dtype: torch.dtype = getattr(torch, "float32" if explicit else recipe.compute_type)
        self._kept: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()  # the writer has two threads

    @property
    def transposed(self) -> bool:
        """Whether output channels lie along the second axis of the values."""
        return self._layout.output_axis == 1

    def values(self, _dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """In the operator's layout."""
        with self._lock:
            if "values" in self._kept:
                yield self._kept.pop("values")
            elif self.transposed:
                yield self._whole()
            else:
                yield from self._parts()

    def scale(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """In the operator's layout."""
        assert dtype == self._scale_dtype
        yield self._take("scale")

    def zero_point(self, _dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """``[out, in / block / 2]`` uint8, two to a byte."""
        yield self._take("zero_point")

    def _take(self, which: str) -> torch.Tensor:
        with self._lock:
            if which not in self._kept:
                self._kept["values"] = self._whole()
            return self._kept.pop(which)

    def _whole(self) -> torch.Tensor:
        """All values, transposed where the operator wants them so."""
        parts = self._parts()
        first = next(parts)
        shape = (self._outputs // self._layout.outputs_in_item, *first.shape[1:])
        return stack(chain((first,), parts), shape, first.dtype, transposed=self.transposed)

    @property
    def _outputs(self) -> int:
        return sum(self._checkpoint.shape(name)[0] for name in self._names)

    def _parts(self) -> Iterator[torch.Tensor]:
        """Values in the operator's layout but for their turn; with the last, scales and zero points are kept."""
        scale = zero_point = None
        done = 0
        for part in self._rounded():
            rows = slice(done, done := done + len(part.scale))
            if scale is None:  # whole from the beginning: small parts that stay would keep the heap from shrinking
                scale = torch.empty(self._outputs, *part.scale.shape[1:], dtype=self._scale_dtype)
            scale[rows] = part.scale
            if part.zero_point is not None:
                packed = pack_nibbles(part.zero_point)
                if zero_point is None:
                    zero_point = torch.empty(self._outputs, packed.shape[1], dtype=packed.dtype)
                zero_point[rows] = packed
            yield self._layout.values(part.values, self.storage.block)
            del part  # before the next is read
        assert scale is not None
        self._kept["scale"] = self._layout.scale(scale)
        if zero_point is not None:
            self._kept["zero_point"] = zero_point

    def _in_blocks(self, weight: QuantizedWeight) -> QuantizedWeight:
        """Scales of whole channels, repeated for the blocks of an operator that takes no others."""
        if not self.storage.block or weight.scale.ndim == 2:
            return weight
        blocks = weight.values.shape[1] // self.storage.block
        return QuantizedWeight(weight.values, weight.scale[:, None].repeat(1, blocks))

    def _rounded(self) -> Iterator[QuantizedWeight]:
        """The weights of all names, some rows at a time."""
        if self.published is not None:
            yield self._in_blocks(self.published())
            return
        if self.calibrated is not None:
            step = rows_at_once(self._checkpoint.shape(self._names[0])[1], torch.int8.itemsize)
            for start in range(0, self._outputs, step):
                rounded = self.calibrated(slice(start, start + step))
                assert rounded is not None
                yield self._in_blocks(rounded)
                del rounded  # before the next is read
            return
        done = 0
        for name in self._names:
            # The division is done in float32, though in small pieces where nothing is smoothed.
            columns = self._checkpoint.shape(name)[1]
            for part in self._checkpoint.read_rows(name, rows_at_once(columns, torch.float32.itemsize)):
                smooth = part
                if self.rows is not None:
                    smooth = smooth / self.rows[done : done + len(part), None]
                if self.columns is not None:
                    smooth = smooth * self.columns
                done += len(part)
                yield round_weight(
                    smooth,
                    self._layout.number_format or FORMATS[self.storage.weights],
                    block=self.storage.block,
                    scale_dtype=self._scale_dtype,
                    asymmetric=self.storage.zero_points,
                    search=self.storage.weights == "int4",
                    # ONNX Runtime takes scales below zero, and TensorRT does not.
                    signed_scale=self._recipe.kernels
                    and self.storage.weights == "int4"
                    and not self.storage.zero_points,
                )
                del part, smooth
