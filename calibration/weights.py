"""A quantized weight: values, and scales per output channel or per block along the input dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["QuantizedWeight"]


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight in a number format: ``w = (values - zero_point) * scale``.

    Attributes:
        values: ``[out, in]`` of the format; int4 in int8.
        scale: ``[out]``, or ``[out, in / block]`` where the weights of a block share one.
        zero_point: int8, of the scale's shape; None where zero is represented by zero.
    """

    values: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor | None = None

    def dequantize(self) -> torch.Tensor:
        """``[out, in]`` float32."""
        rows, columns = self.values.shape
        groups = self.values.float().reshape(rows, self.scale[0].numel(), -1)
        if self.zero_point is not None:
            groups = groups - self.zero_point.float().reshape(rows, -1, 1)
        return (groups * self.scale.float().reshape(rows, -1, 1)).reshape(rows, columns)
