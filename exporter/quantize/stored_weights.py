"""How quantized weights lie in a graph's data, by the operator that reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from exaone_export.calibration.number_formats import REDUCED_INT8, NumberFormat

__all__ = ["CHANNELS", "EXPLICIT", "NBITS", "ROWS", "StoredWeight", "pack_nibbles", "unsigned"]


@dataclass(frozen=True)
class StoredWeight:
    """The layout of one operator.

    Attributes:
        output_axis: Of the values, the axis that output channels lie along.
        values: Rows ``[rows, in]`` of a number format's values, and the block, to the operator's; an even number of
            rows. Where ``output_axis`` is 1, they are transposed afterwards.
        scale: ``[out, in / block]`` or ``[out]`` to the operator's.
        number_format: What the operator takes, where it is narrower than its name says.
        outputs_in_item: How many output channels share an item of the values.
    """

    output_axis: int
    values: Callable[[torch.Tensor, int], torch.Tensor]
    scale: Callable[[torch.Tensor], torch.Tensor]
    number_format: NumberFormat | None = None
    outputs_in_item: int = 1


def pack_nibbles(values: torch.Tensor) -> torch.Tensor:
    """``[rows, n]`` int4 in int8 to ``[rows, n / 2]`` uint8, each value plus 8, the first in the low half of the byte.

    An odd ``n`` is filled up with zeros.
    """
    codes = values.view(torch.uint8) + 8  # in bytes, so that a negative value wraps to its code
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1), value=8)
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def _pack_rows(rows: torch.Tensor) -> torch.Tensor:
    """``[out, in]`` int4 in int8 to ``[out / 2, in]``: of two rows, the first in the low half of the byte.

    Turned, two neighbours of a row of ``[in, out]`` share a byte, as ONNX stores them.
    """
    return (rows[0::2] & 0xF) | (rows[1::2] << 4)


def unsigned(values: torch.Tensor) -> torch.Tensor:
    """int8 to uint8 around 128."""
    return values.view(torch.uint8) ^ 0x80


def _blocks(values: torch.Tensor, block: int) -> torch.Tensor:
    return values.reshape(len(values), -1, block)


def _transposed_if_blocks(scale: torch.Tensor) -> torch.Tensor:
    return scale.T.contiguous() if scale.ndim == 2 else scale


EXPLICIT = {
    "int4": StoredWeight(1, lambda values, _: _pack_rows(values), _transposed_if_blocks, outputs_in_item=2),
    "int8": StoredWeight(1, lambda values, _: values, _transposed_if_blocks),
    "float8_e4m3fn": StoredWeight(1, lambda values, _: values, _transposed_if_blocks),
}
"""``DequantizeLinear`` before a product: ``[in, out]``, scales ``[in / block, out]`` or ``[out]``."""

NBITS = {
    "int4": StoredWeight(0, lambda values, block: _blocks(pack_nibbles(values), block // 2), lambda scale: scale),
    "int8": StoredWeight(0, lambda values, block: _blocks(unsigned(values), block), lambda scale: scale),
}
"""``MatMulNBits``: ``[out, in / block, bytes of a block]`` unsigned, scales ``[out, in / block]``."""

CHANNELS = {"int8": StoredWeight(1, lambda values, _: values, lambda scale: scale, REDUCED_INT8)}
"""``exaone::DynamicInt8MatMul``: ``[in, out]``, scales ``[out]``."""

ROWS = {"int8": StoredWeight(0, lambda values, _: unsigned(values), lambda scale: scale)}
"""``GatherBlockQuantized``: ``[rows, columns]`` unsigned, scales ``[rows, columns / block]``."""
