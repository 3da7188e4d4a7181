"""A precision, decided for one model and one target: what every product, the embedding and the head are stored as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec

from ..errors import ArtifactError, ConfigError
from ..files.records import Count, Size, one_of, read_record
from ..model.dtypes import DTYPES
from ..model.spec import ModelSpec
from ..model.tensors import PROJECTIONS, input_sizes
from .precision import BLOCK, FLOATS, KEPT_FLOAT, PRECISIONS, Precision, Storage

__all__ = ["Recipe"]

_SMALLEST_BLOCK = 16


@dataclass(frozen=True)
class Recipe:
    """A precision, decided for one model and one target.

    Attributes:
        precision: The requested one.
        compute_type: One of `FLOATS`.
        blocks: By projection, how many weights of an output channel share a scale; empty where a whole channel does.
        kernels: Whether ONNX Runtime's quantized operators run the products. They round inputs as they come, token by
            token; otherwise explicit quantization with calibrated ranges does.
        zero_points: Whether weights in blocks have zero points.
        kept: By layer, the precision of those that have another one; `KEPT_FLOAT` for the compute type.
        unquantized: By layer, the products that are in the compute type because the checkpoint has them so.
        smoothed: Projections whose inputs are multiplied by a factor a channel in the graph (explicit smoothing).
        cache: Number format of keys and values; None for the compute type.
        hidden_size: Inputs of the head.
        quantizes_head: Whether the head is stored as the layers' products are: a vocabulary projection. The other heads
            are small, and stay in float32.
        vocabulary: Precision of the vocabulary projection where the layers have another one: that of the graph that it
            is shared with; None for the layers' own.
        experts_block: How many weights of an output channel of an expert share a scale; 0 where the whole channel does.
    """

    precision: Precision
    compute_type: str
    blocks: Mapping[str, int] = field(default_factory=dict)
    kernels: bool = False
    zero_points: bool = False
    kept: Mapping[int, str] = field(default_factory=dict)
    unquantized: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    smoothed: tuple[str, ...] = ()
    cache: str | None = None
    hidden_size: int = 0
    quantizes_head: bool = True
    vocabulary: str | None = None
    experts_block: int = 0

    @classmethod
    def plan(cls, spec: ModelSpec, precision: str, compute_type: str, *, kernels: bool = False) -> Recipe:
        """Choose the blocks: the longest power of two that divides a product's input dimension.

        Raises:
            ConfigError: There is none from 16 on.
        """
        chosen = PRECISIONS[precision]
        # ONNX Runtime takes weights without rounded inputs in blocks only.
        longest = chosen.block or (BLOCK if kernels and chosen.weights and chosen.activations is None else 0)
        blocks = {}
        # Explicit quantization has blocks for int4 alone; the kernels take the embedding in blocks, whatever else is.
        instead = compute_type if kernels else "int8-weights"
        if longest:
            blocks = {
                projection: _block(precision, longest, projection, size, instead)
                for projection, size in input_sizes(spec).items()
            }
        quantizes = kernels and chosen.weights is not None
        if quantizes:
            _block(precision, BLOCK, "vocabulary", spec.hidden_size, instead)
        experts_block = 0
        if quantizes and chosen.block and (sparse := spec.sparse_mlp) is not None:
            # The operator has one block for both products of an expert, and its blocks of eight bits are wrong.
            inputs = math.gcd(spec.hidden_size, sparse.moe_intermediate_size)
            experts_block = _block(precision, chosen.block, "experts'", inputs, instead)
        return cls(
            chosen,
            compute_type,
            blocks,
            quantizes,
            hidden_size=spec.hidden_size,
            quantizes_head=spec.head.is_causal_lm,
            experts_block=experts_block,
        )

    def for_prompts(self, precision: str) -> Recipe:
        """The recipe of a second graph over the same caches, embedding and vocabulary projection, for prompts.

        What this one leaves in the compute type stays so: smoothing that is folded into weights changes the caches.

        Args:
            precision: Of the other layers' products; their weights are rounded anew, a channel a scale.
        """
        chosen = PRECISIONS[precision]
        assert self.kernels and chosen.activations is not None
        return replace(
            self,
            precision=chosen,
            blocks={},
            kept={layer: name for layer, name in self.kept.items() if name == KEPT_FLOAT},
            vocabulary=self.precision.name,
        )

    @property
    def is_for_prompts(self) -> bool:
        """Whether it is `for_prompts` of another one."""
        return self.vocabulary is not None

    @property
    def weights(self) -> str:
        """Type of the stored weights of the layers' products."""
        return self.precision.weights or self.compute_type

    @property
    def cache_type(self) -> str:
        """Number format of keys and values."""
        return self.cache or self.compute_type

    @property
    def cache_item_bytes(self) -> int:
        """Bytes of one number of the cache."""
        return DTYPES[self.cache_type].bits // 8

    @property
    def compute_item_bytes(self) -> int:
        """Bytes of one number of the compute type."""
        return DTYPES[self.compute_type].bits // 8

    def product(self, layer: int, projection: str) -> Storage | None:
        """How a layer's product is stored; None for the compute type."""
        kept = self.kept.get(layer, self.precision.name)
        if projection in self.unquantized.get(layer, ()):
            return None
        return None if kept == KEPT_FLOAT else self._storage(PRECISIONS[kept], self.blocks.get(projection, 0))

    @property
    def experts(self) -> Storage | None:
        """How the experts of sparse layers are stored; None for the compute type."""
        if not self.kernels or self.precision.weights is None:
            return None
        return Storage(self.precision.weights, self.experts_block)

    @property
    def head(self) -> Storage | None:
        """How the vocabulary projection is stored; None for the compute type, or another head."""
        if not (self.kernels and self.quantizes_head):
            return None
        block = _divisor(BLOCK, self.hidden_size) if self.blocks or self.is_for_prompts else 0
        return self._storage(PRECISIONS[self.vocabulary or self.precision.name], block)

    @property
    def head_type(self) -> str:
        """Type of the head's stored weight."""
        if not self.quantizes_head:
            return "float32"
        return self.head.weights if self.head else self.compute_type

    @property
    def embedding(self) -> Storage | None:
        """How the embedding is stored; None for the compute type.

        Eight bits whatever the precision: a token reads one row of it, so that fewer would save no time, and its error
        would enter the residual stream as it is.
        """
        return Storage("int8", _divisor(BLOCK, self.hidden_size)) if self.kernels else None

    def _storage(self, precision: Precision, block: int) -> Storage | None:
        if precision.weights is None:
            return None
        inputs = "int8" if self.kernels and self.compute_type == "float32" else precision.activations
        if precision.activations is not None or not (precision.block or self.kernels):
            block = 0
        return Storage(precision.weights, block, inputs, self.zero_points and precision.weights == "int4")

    def to_dict(self) -> dict[str, Any]:
        """The form that the manifest holds; what the recipe leaves in the compute type is named too."""
        return {
            "precision": self.precision.name,
            "compute_type": self.compute_type,
            "blocks": dict(self.blocks),
            "embedding": self.embedding.weights if self.embedding else self.compute_type,
            "head": self.head_type,
            "kernels": self.kernels,
            "zero_points": self.zero_points,
            "kept": {str(layer): name for layer, name in self.kept.items()},
            "unquantized": {str(layer): list(names) for layer, names in self.unquantized.items()},
            "smoothed": list(self.smoothed),
            "cache": self.cache,
            "hidden_size": self.hidden_size,
            **({} if self.quantizes_head else {"quantizes_head": False}),
            **({} if self.vocabulary is None else {"vocabulary": self.vocabulary}),
            **({"experts_block": self.experts_block} if self.experts_block else {}),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """Read `to_dict`'s form back; other keys are left alone.

        Raises:
            ArtifactError: The form is not `to_dict`'s.
        """
        stored = read_record(
            value, _Stored, name="the manifest's recipe", fix="export the model again", error=ArtifactError
        )
        return cls(**msgspec.structs.asdict(stored) | {"precision": PRECISIONS[stored.precision]})


_Projection = Annotated[str, one_of(PROJECTIONS)]


class _Stored(msgspec.Struct, frozen=True):
    """What `Recipe.from_dict` reads of `Recipe.to_dict`'s form."""

    precision: Annotated[str, one_of(PRECISIONS)]
    compute_type: Annotated[str, one_of(FLOATS)]
    blocks: dict[_Projection, Count]
    kernels: bool
    zero_points: bool
    kept: dict[Size, Annotated[str, one_of((KEPT_FLOAT, *PRECISIONS))]]
    smoothed: tuple[_Projection, ...]
    cache: Annotated[str, one_of(("int8",))] | None
    hidden_size: Size
    unquantized: dict[Size, tuple[_Projection, ...]] = msgspec.field(default_factory=dict)
    quantizes_head: bool = True
    vocabulary: Annotated[str, one_of(PRECISIONS)] | None = None
    experts_block: Count = 0

    def __post_init__(self) -> None:
        if self.blocks and len(self.blocks) != len(PROJECTIONS):
            raise ValueError(f"blocks must name {', '.join(PROJECTIONS)}, or none of them")


def _block(precision: str, longest: int, projection: str, size: int, instead: str) -> int:
    block = _divisor(longest, size)
    if block < _SMALLEST_BLOCK:
        raise ConfigError(
            f"the {projection} projection has {size} inputs, and {precision} needs a multiple of {_SMALLEST_BLOCK}: "
            f"pass --precision {instead}."
        )
    return block


def _divisor(longest: int, size: int) -> int:
    block = longest
    while size % block:
        block //= 2
    return block
