"""The number formats that weights and activations are rounded to, and the rounding itself.

All are symmetric, with no zero point, as TensorRT requires. The formula is that of the ONNX operators
``QuantizeLinear`` and ``DequantizeLinear`` (opset 24): ``q = saturate(round(x / scale))`` with ties to even, and
``x' = q * scale``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["FORMATS", "REDUCED_INT8", "NumberFormat"]


@dataclass(frozen=True)
class NumberFormat:
    """One format.

    Attributes:
        name: As ONNX and NumPy's extensions call it.
        largest: The magnitude that a range is mapped to. It is the same on both sides of zero, so int8's -128 and
            int4's -8 are not used.
        lowest: The lowest value; an integer format has one more below zero than above it.
        storage: The type that values come in; int8 for int4.
        quantize: ``x / scale``, float32, to the format's values.
    """

    name: str
    largest: float
    lowest: float
    storage: torch.dtype
    quantize: Callable[[torch.Tensor], torch.Tensor]

    @property
    def integer(self) -> bool:
        """Whether the values are integers, evenly apart, so that they may have a zero point."""
        return self.lowest != -self.largest

    def scale(self, magnitude: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The scale that maps ``magnitude`` to the largest value, rounded to ``dtype``.

        A magnitude of zero, or one too small for ``dtype``, gives the smallest scale that ``dtype`` has, because a
        runtime may divide by it.

        Args:
            magnitude: Of any shape, float32, not negative.
            dtype: float32, float16 or bfloat16. A scale of another type than float32 must be rounded before the values
                are divided by it, or every value of its channel is off by the same factor.

        Returns:
            The same shape, ``dtype``.
        """
        return (magnitude / self.largest).clamp(min=_SMALLEST[dtype]).to(dtype)


# float16 keeps its subnormal numbers on every processor; float32 and bfloat16 lose them on some.
_SMALLEST = {torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-24}


def _to_integers(lowest: int, highest: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def quantize(ratio: torch.Tensor) -> torch.Tensor:
        return ratio.round().clamp(lowest, highest).to(torch.int8)

    return quantize


def _to_e4m3(ratio: torch.Tensor) -> torch.Tensor:
    """Float8 E4M3 (Micikevicius et al., 2022) has no infinity, and a cast may make NaN of what is out of range."""
    return ratio.clamp(-448.0, 448.0).to(torch.float8_e4m3fn)


FORMATS = {
    number_format.name: number_format
    for number_format in (
        NumberFormat("int8", 127.0, -128.0, torch.int8, _to_integers(-128, 127)),
        NumberFormat("int4", 7.0, -8.0, torch.int8, _to_integers(-8, 7)),
        NumberFormat("float8_e4m3fn", 448.0, -448.0, torch.float8_e4m3fn, _to_e4m3),
    )
}

REDUCED_INT8 = NumberFormat("int8", 63.0, -64.0, torch.int8, _to_integers(-64, 63))
"""int8 with seven bits, so that two products with an unsigned byte fit 16 bits."""
