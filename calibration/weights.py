"""Weights rounded to nearest: per output channel, or in blocks along the input dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .number_formats import NumberFormat

__all__ = ["QuantizedWeight", "quantize_weight"]


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


def quantize_weight(
    weight: torch.Tensor, number_format: NumberFormat, *, block: int = 0, scale_dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight so that the largest magnitude of each group becomes the format's largest value.

    ``scale = max(|w|) / largest`` over a group, rounded to ``scale_dtype``, then ``q = saturate(round(w / scale))``
    with ties to even (ONNX ``QuantizeLinear``, opset 24). The division is done in float32. Rows are independent of each
    other, so a weight may be quantized some rows at a time.

    Args:
        weight: ``[out, in]``, as a checkpoint stores it, of any float dtype; finite.
        number_format: What to round to.
        block: Weights in a row that share a scale, a divisor of ``in``; 0 for one scale a row.
        scale_dtype: float32, float16 or bfloat16.

    Returns:
        Values ``[out, in]`` of the format (int4 in int8), and scales ``[out]``, or ``[out, in / block]``.
    """
    rows, columns = weight.shape
    groups = weight.float().reshape(rows, -1, block or columns)
    scale = number_format.scale(groups.abs().amax(-1), scale_dtype)
    values = number_format.quantize(groups / scale.float().unsqueeze(-1)).reshape(rows, columns)
    return values, scale if block else scale.squeeze(1)
