"""Int4 values, two to a byte along a row: of two neighbours, the first in the low half, as ONNX stores them."""

from __future__ import annotations

import torch

__all__ = ["pack_int4", "unpack_int4"]


def pack_int4(values: torch.Tensor) -> torch.Tensor:
    """``[out, in]`` int8 from -8 to 7, ``in`` even, to ``[out, in / 2]`` int8."""
    halves = values.view(torch.uint8) & 0xF
    return (halves[:, 0::2] | (halves[:, 1::2] << 4)).view(torch.int8)


def unpack_int4(packed: torch.Tensor) -> torch.Tensor:
    """``[out, in / 2]`` int8 to ``[out, in]`` int8."""
    rows, columns = packed.shape
    values = torch.empty(rows, 2 * columns, dtype=torch.int8)
    values[:, 0::2] = (packed << 4) >> 4  # shifts of int8 keep the sign
    values[:, 1::2] = packed >> 4
    return values
