"""Unpacking integers of 4 and 8 bits from the 32-bit words of GPTQ, AWQ and compressed-tensors."""

from __future__ import annotations

import sys

import torch

__all__ = ["spread_rows", "unpack"]


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack values from words, the lowest bits first, and make them signed.

    Args:
        words: ``[rows, n]`` int32.
        bits: 4 or 8.

    Returns:
        ``[rows, n * 32 / bits]`` int8: the stored values less ``2 ** (bits - 1)``, so -8 to 7 or -128 to 127.
    """
    assert sys.byteorder == "little", "a word's lowest byte is taken for its first"
    # Flat, because of a dimension of one the stride may be anything.
    data = words.reshape(-1).contiguous().view(torch.uint8).reshape(len(words), -1)
    if bits == 8:
        return (data ^ 0x80).view(torch.int8)
    pairs = torch.stack((data & 0xF, data >> 4), dim=-1)
    return pairs.view(torch.int8).sub_(8).reshape(len(words), -1)


def spread_rows(scale: torch.Tensor, rows: int, outputs: int) -> torch.Tensor:
    """Give each output channel the scales of its block: ``[ceil(outputs / rows), n]`` to ``[outputs, n]``."""
    return scale.repeat_interleave(rows, dim=0)[:outputs].contiguous()
