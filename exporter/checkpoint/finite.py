"""Refusing a tensor that holds a value that is not finite, with the place of the first one."""

from __future__ import annotations

import math

import torch

from exaone_export.errors import CheckpointError

from .safetensors_file import TensorInfo

__all__ = ["check_finite"]

_AGAIN = "download the checkpoint again, or choose one whose weights are finite"
_SLICE = 1 << 20


def check_finite(tensor: torch.Tensor, info: TensorInfo, first_row: int = 0) -> None:
    """Raise where a value of a tensor, or of its rows from ``first_row`` on, is not finite."""
    if not tensor.is_floating_point():
        return
    if tensor.dtype == torch.float8_e4m3fn:
        _check_float8(tensor, info)
        return
    # aminmax hands NaN and infinity through and, unlike isfinite, needs no second tensor of the same size.
    if all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor)):
        return
    start = 0
    for part in tensor.flatten().split(_SLICE):
        bad = torch.nonzero(~torch.isfinite(part))
        if len(bad):
            start += int(bad[0])
            break
        start += len(part)
    index = [int(i) for i in torch.unravel_index(torch.tensor(start), tensor.shape)]
    value = tensor[tuple(index)].item()
    if index:
        index[0] += first_row
    raise CheckpointError(f"{info.name} in {info.shard.name} is {value} at {index}; {_AGAIN}.")


def _check_float8(tensor: torch.Tensor, info: TensorInfo) -> None:
    """E4M3 has no infinity, and one magnitude that is NaN, with all its bits set."""
    bad = torch.nonzero(tensor.view(torch.uint8).bitwise_and(0x7F) == 0x7F)
    if len(bad):
        raise CheckpointError(f"{info.name} in {info.shard.name} is nan at {bad[0].tolist()}; {_AGAIN}.")
