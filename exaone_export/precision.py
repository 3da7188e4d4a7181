"""What a precision means: how the weights of a layer's products are stored, and what their inputs are rounded to.

A precision quantizes the four products of every layer. All else, the attention, the cache, the embedding, the
vocabulary projection and the logits, has the compute type; norms, rotary tables and the residual stream are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exaone_export.errors import ArtifactError, ConfigError
from exaone_export.spec import ModelSpec

__all__ = ["FLOATS", "PARTS", "PRECISIONS", "Precision", "Recipe", "input_sizes"]

FLOATS = ("float32", "float16", "bfloat16")

PARTS = ("qkv", "output", "gate_up", "down")
"""A layer's products, in the order in which they are computed."""

_SMALLEST_BLOCK = 16


@dataclass(frozen=True)
class Precision:
    """One choice of ``--precision``.

    Attributes:
        name: On the command line and in the manifest.
        weights: Type of the stored weights; None for the compute type.
        activations: Type that the products' inputs are rounded to; None where they are not.
        block: The most weights of one output channel, in a row, that share a scale; 0 where the whole channel does.
    """

    name: str
    weights: str | None = None
    activations: str | None = None
    block: int = 0


PRECISIONS = {
    precision.name: precision
    for precision in (
        *map(Precision, FLOATS),
        Precision("int8", weights="int8", activations="int8"),
        Precision("fp8", weights="float8_e4m3fn", activations="float8_e4m3fn"),
        Precision("int4", weights="int4", block=128),
        Precision("int8-weights", weights="int8"),
    )
}


@dataclass(frozen=True)
class Recipe:
    """A precision, decided for one model.

    Attributes:
        precision: What was asked for.
        compute_type: One of `FLOATS`.
        blocks: By part, how many weights of an output channel share a scale; empty where a whole channel does.
    """

    precision: Precision
    compute_type: str
    blocks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def plan(cls, spec: ModelSpec, precision: str, compute_type: str) -> Recipe:
        """Choose the blocks: the longest power of two that divides a product's input dimension.

        Raises:
            ConfigError: There is none from 16 on.
        """
        chosen = PRECISIONS[precision]
        blocks = {}
        if chosen.block:
            blocks = {part: _block(chosen, part, size) for part, size in input_sizes(spec).items()}
        return cls(chosen, compute_type, blocks)

    @property
    def weights(self) -> str:
        """Type of the stored weights of the layers' products."""
        return self.precision.weights or self.compute_type

    def to_dict(self) -> dict[str, Any]:
        """The form that the manifest holds; what the recipe leaves in the compute type is named too."""
        return {
            "precision": self.precision.name,
            "compute_type": self.compute_type,
            "blocks": dict(self.blocks),
            "embedding": self.compute_type,
            "head": self.compute_type,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Recipe:
        """Read `to_dict`'s form back; other keys are left alone.

        Raises:
            ArtifactError: The form is not `to_dict`'s.
        """
        try:
            precision, compute_type = PRECISIONS[value["precision"]], value["compute_type"]
            blocks = {part: int(value["blocks"][part]) for part in PARTS if precision.block}
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError("the manifest's recipe cannot be read; export the model again.") from error
        if compute_type not in FLOATS:
            raise ArtifactError(f"the manifest's compute type is {compute_type!r:.40}; export the model again.")
        return cls(precision, compute_type, blocks)


def input_sizes(spec: ModelSpec) -> dict[str, int]:
    """By part, the length of the vectors that a layer's product takes."""
    return {
        "qkv": spec.hidden_size,
        "output": spec.num_attention_heads * spec.head_dim,
        "gate_up": spec.hidden_size,
        "down": spec.intermediate_size,
    }


def _block(precision: Precision, part: str, size: int) -> int:
    block = precision.block
    while size % block:
        block //= 2
    if block < _SMALLEST_BLOCK:
        raise ConfigError(
            f"the {part} projection has {size} inputs, and {precision.name} needs a multiple of {_SMALLEST_BLOCK}: "
            f"pass --precision int8-weights."
        )
    return block
