"""The tensors that quantization puts in the place of a product's weight, made when they are written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, product

import torch

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CheckpointError
from exaone_export.graphs.wanted import CacheScale, ReplacedWeight, Wanted
from exaone_export.model.tensors import layer_norms, layer_prefix, weight_table
from exaone_export.targets.precision import Storage
from exaone_export.targets.recipe import Recipe

from ..calibrate.scales.file import ScalesFile
from ..calibrate.smoothing import weight_factors
from ..checkpoint.checkpoint import Checkpoint
from ..reference.weights import COMPUTE_WIDER, WeightReader, read_weight, rows_at_once, stack
from .expert_weights import ExpertWeights
from .stored_weights import CHANNELS, EXPLICIT, NBITS, ROWS, StoredWeight, pack_nibbles


def quantized_readers(
    checkpoint: Checkpoint, recipe: Recipe, scales: ScalesFile | None, wanted: Mapping[str, Wanted | CacheScale]
) -> dict[str, WeightReader]:
    """For every tensor that the passes have added to a graph, by name, what makes it.

    Args:
        checkpoint: Where weights come from.
        recipe: What the passes were given.
        scales: What calibration found, where the recipe needs it.
        wanted: What each tensor is to hold; see `exaone_export.graphs.wanted.wanted`.
    """
    weights: dict[ReplacedWeight, _Weight | ExpertWeights] = {}
    readers: dict[str, WeightReader] = {}
    for name, content in wanted.items():
        if isinstance(content, CacheScale):
            readers[name] = _constant(_cache_scale(content, recipe, scales))
            continue
        if content.weight not in weights:
            weights[content.weight] = _weight(checkpoint, recipe, scales, content.weight)
        weight = weights[content.weight]
        if isinstance(weight, ExpertWeights):
            parts = weight.values if content.field == "values" else weight.scale
            readers[name] = WeightReader(parts, weight)
            continue
        match content.field:
            case "values":
                readers[name] = WeightReader(weight.values, weight, whole=weight.transposed)
            case "scale":
                readers[name] = WeightReader(weight.scale, weight)
            case "zero_point":
                readers[name] = WeightReader(weight.zero_point, weight)
            case "input_scale":
                readers[name] = _constant(_input_scale(checkpoint, scales, content.weight))
            case "input_smoothing":
                assert weight.columns is not None
                readers[name] = _constant(weight.columns.reciprocal())
    return readers | _smoothing_norms(checkpoint, recipe, scales)


def _smoothing_norms(checkpoint: Checkpoint, recipe: Recipe, scales: ScalesFile | None) -> dict[str, WeightReader]:
    """The norms that divide the inputs of a smoothed projection behind them."""
    found: dict[str, WeightReader] = {}
    if scales is None:
        return found
    spec, table = checkpoint.spec, weight_table(checkpoint.spec)
    for norm, layer in product(layer_norms(spec), range(spec.num_hidden_layers)):
        if norm.before is None or recipe.product(layer, norm.before) is None:
            continue  # what is kept in the compute type is not smoothed
        if (factor := scales.smoothing(layer, norm.before)) is not None:
            name = layer_prefix(layer) + norm.name
            found[name] = _constant(read_weight(checkpoint, table[name], torch.float32) / factor)
    return found


def _weight(
    checkpoint: Checkpoint, recipe: Recipe, scales: ScalesFile | None, stored: ReplacedWeight
) -> _Weight | ExpertWeights:
    source = weight_table(checkpoint.spec)[stored.source]
    if source.experts:
        return ExpertWeights(checkpoint, source, stored.storage)
    names = source.names
    layout = ROWS["int8"] if stored.product == "embedding" else None
    weight = _Weight(checkpoint, names, stored.storage, recipe, layout)
    if stored.layer is None:
        if stored.product == "head" and scales is not None and scales.has_head and stored.storage.weights == "int4":
            weight.calibrated = scales.head
        return weight
    if checkpoint.quantization is not None:
        weight.published = partial(checkpoint.read_quantized, names)
    if scales is not None:
        if scales.has_weight(stored.layer, stored.product) and not recipe.is_for_prompts:
            weight.calibrated = partial(scales.weight, stored.layer, stored.product)
        smoothing = partial(scales.smoothing, stored.layer)
        weight.rows, weight.columns = weight_factors(checkpoint.spec, stored.product, smoothing)
    return weight


def _input_scale(checkpoint: Checkpoint, scales: ScalesFile | None, stored: ReplacedWeight) -> torch.Tensor:
    """The checkpoint's own, where its publisher has calibrated it."""
    names = weight_table(checkpoint.spec)[stored.source].names
    own = checkpoint.read_input_scale(names) if checkpoint.quantization is not None else None
    if own is not None:
        return own
    assert scales is not None and stored.layer is not None and stored.storage.inputs is not None
    reach = scales.ranges[stored.layer][stored.product].range
    return FORMATS[stored.storage.inputs].scale(torch.tensor(reach))


def _cache_scale(content: CacheScale, recipe: Recipe, scales: ScalesFile | None) -> torch.Tensor:
    assert scales is not None
    # Where the products are not quantized, their weights are not smoothed either.
    found = scales.cache(content.layer, smoothed=recipe.product(content.layer, "output") is not None)
    assert found is not None
    return found[("key", "value").index(content.which)][None, :, None]


def _layout(recipe: Recipe, storage: Storage) -> StoredWeight:
    if not recipe.kernels:
        return EXPLICIT[storage.weights]
    return (NBITS if storage.block else CHANNELS)[storage.weights]


def _constant(tensor: torch.Tensor) -> WeightReader:
    def parts(dtype: torch.dtype) -> Iterator[torch.Tensor]:
        yield tensor.to(dtype).contiguous()

    return WeightReader(parts, parts)


class _Weight:
    """One weight with its scales and zero points, from one reading; what is not requested yet is kept until then.

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
        if not torch.isfinite(scale).all():  # what was read is finite, so the type is too narrow
            raise CheckpointError(f"the scales of {', '.join(self._names)} do not fit float16: {COMPUTE_WIDER}.")
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
