"""What a precision means: how the weights of products are stored, and what their inputs are rounded to.

A precision quantizes the four products of every layer, and where ONNX Runtime's own operators run it, the embedding and
the vocabulary projection too. All else, the attention, the cache and the logits, has the compute type; norms, rotary
tables and the residual stream are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..model.dtypes import FLOATS

__all__ = ["BLOCK", "FLOATS", "KEPT_FLOAT", "PRECISIONS", "Precision", "Storage", "canonical"]

_ALIASES = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}

KEPT_FLOAT = "float"
"""What a layer is kept in that has the compute type."""

BLOCK = 128
"""The most weights in a row that share a scale, where they are stored in blocks."""


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
        Precision("int4", weights="int4", block=BLOCK),
        Precision("int8-weights", weights="int8"),
    )
}


def canonical(name: str) -> str:
    """The name that a precision or a compute type has in the manifest: ``float16`` for ``fp16`` or ``half``."""
    return _ALIASES.get(name, name)


@dataclass(frozen=True)
class Storage:
    """How one product's weight is stored, and what its inputs are rounded to.

    Attributes:
        weights: The number format.
        block: How many weights of an output channel share a scale; 0 where the whole channel does.
        inputs: Type that the product's inputs are rounded to; None where they are not.
        zero_points: Whether a scale has a zero point beside it.
    """

    weights: str
    block: int = 0
    inputs: str | None = None
    zero_points: bool = False
