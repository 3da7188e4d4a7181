"""Every tensor that an artifact's graph stores, and its exact size, from the architecture and the recipe alone.

What the passes of `exaone_export.graphs` do to a traced graph's weights is repeated here as arithmetic, so that sizes
are known before torch is loaded. A test holds the two together, tensor by tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..model.dtypes import DTYPES
from ..model.expert_tensors import expert_weights
from ..model.spec import ModelSpec
from ..model.tensors import head_weights, layer_norms, layer_products
from ..targets.cache_layout import CacheLayout
from ..targets.precision import Storage
from ..targets.recipe import Recipe

__all__ = [
    "ALIGNMENT",
    "GROUPS",
    "INLINE_BYTES",
    "StoredTensor",
    "data_file_bytes",
    "prefill_tensors",
    "stored_tensors",
]

GROUPS = ("embedding", "head", "layers", "experts", "scales", "norms", "rotary")
"""What a stored tensor belongs to; zero points and smoothing factors count as scales, scales of experts as experts."""

INLINE_BYTES = 1024
"""A tensor of more bytes than this lies in the data file; others stand in the graph."""

ALIGNMENT = 4096
"""Bytes that a tensor's place in the data file is a multiple of, at most."""


@dataclass(frozen=True)
class StoredTensor:
    """One initializer of a finished graph.

    Attributes:
        group: One of `GROUPS`.
        num_elements: Values of it.
        dtype: Their number format.
        gather_only: Whether rows of it are looked up and nothing is multiplied by it.
    """

    group: str
    num_elements: int
    dtype: str
    gather_only: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of the values; two of int4 share one."""
        return -(-self.num_elements * DTYPES[self.dtype].bits // 8)


def stored_tensors(spec: ModelSpec, recipe: Recipe, layout: CacheLayout) -> Iterator[StoredTensor]:
    """The initializers of the graph that an export with ``recipe`` and ``layout`` writes, in no particular order."""
    yield from _embedding_and_head(spec, recipe)
    for layer in range(spec.num_hidden_layers):
        yield from _layer(spec, recipe, layer)
    yield StoredTensor("norms", spec.hidden_size, "float32")
    table = layout.max_length * spec.head_dim // 2
    yield from (StoredTensor("rotary", table, "float32") for _ in ("cos", "sin"))


def prefill_tensors(spec: ModelSpec, recipe: Recipe, beside: Recipe) -> Iterator[StoredTensor]:
    """What a second graph, for prompts, stores for itself: the products that it does not share with ``beside``."""
    for layer in range(spec.num_hidden_layers):
        for name, projection in layer_products(spec, layer).items():
            storage = recipe.product(layer, name)
            if storage is None or storage == beside.product(layer, name):
                continue
            yield from _product("layers", projection.inputs(spec), projection.outputs(spec), storage, recipe)
            if name in recipe.smoothed:
                yield StoredTensor("scales", projection.inputs(spec), "float32")


def data_file_bytes(tensors: Iterator[StoredTensor]) -> int:
    """The most bytes that the data file of ``tensors`` takes, alignment included."""
    sizes = (tensor.num_bytes for tensor in tensors)
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes if size > INLINE_BYTES)


def _embedding_and_head(spec: ModelSpec, recipe: Recipe) -> Iterator[StoredTensor]:
    elements = spec.vocab_size * spec.hidden_size
    if recipe.embedding is None:
        yield StoredTensor("embedding", elements, recipe.compute_type, gather_only=not spec.shares_embedding)
    else:
        yield StoredTensor("embedding", elements, recipe.embedding.weights, gather_only=True)
        yield StoredTensor("scales", elements // recipe.embedding.block, recipe.compute_type, gather_only=True)
    if recipe.head is not None:
        # Stored a second time where it is tied, because its operator wants another layout.
        yield from _product("head", spec.hidden_size, spec.vocab_size, recipe.head, recipe)
    elif not spec.shares_embedding:
        yield from (
            StoredTensor("head", math.prod(source.shape), recipe.head_type)
            for weight in head_weights(spec)
            for source in weight.sources
        )


def _layer(spec: ModelSpec, recipe: Recipe, layer: int) -> Iterator[StoredTensor]:
    for name, projection in layer_products(spec, layer).items():
        inputs, outputs, storage = projection.inputs(spec), projection.outputs(spec), recipe.product(layer, name)
        if storage is None:
            yield StoredTensor("layers", inputs * outputs, recipe.compute_type)
            continue
        yield from _product("layers", inputs, outputs, storage, recipe)
        if name in recipe.smoothed:
            yield StoredTensor("scales", inputs, "float32")
        if storage.inputs is not None and not recipe.kernels:
            yield StoredTensor("scales", 1, "float32")
    yield from (StoredTensor("norms", norm.size(spec), "float32") for norm in layer_norms(spec))
    yield from _experts(spec, recipe, layer)
    if recipe.cache is not None:
        channels = spec.num_key_value_heads * spec.head_dim
        yield from (StoredTensor("scales", channels, "float32") for _ in ("key", "value"))


def _experts(spec: ModelSpec, recipe: Recipe, layer: int) -> Iterator[StoredTensor]:
    storage = recipe.experts
    for weight in expert_weights(spec, layer):
        elements = sum(math.prod(source.shape) for source in weight.sources)
        if not weight.experts:  # the router's
            yield StoredTensor("experts", elements, "float32")
            continue
        yield StoredTensor("experts", elements, recipe.compute_type if storage is None else storage.weights)
        if storage is not None:
            inputs = weight.sources[0].shape[1]
            yield StoredTensor("experts", elements // (storage.block or inputs), "float32")


def _product(group: str, inputs: int, outputs: int, storage: Storage, recipe: Recipe) -> Iterator[StoredTensor]:
    yield StoredTensor(group, inputs * outputs, storage.weights)
    blocks = inputs // storage.block if storage.block else 1
    # Scales of inputs and of their weights are float32 both; the kernel for whole channels takes nothing else.
    rounded = storage.inputs is not None if not recipe.kernels else not storage.block
    yield StoredTensor("scales", blocks * outputs, "float32" if rounded else recipe.compute_type)
    if storage.zero_points:
        # Two to a byte, every output's filled up to whole bytes.
        yield StoredTensor("scales", outputs * math.ceil(blocks / 2), "int8")
