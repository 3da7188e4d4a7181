"""Scales of a quantized cache: one for each channel of each key-value head.

Keys differ most from channel to channel (Liu et al., "KIVI", 2024; Hooper et al., "KVQuant", 2024). The cache holds
them after QK-norm and, on rotary layers, after RoPE, which rotates channels d and d + D/2 into one another as positions
advance: what one of them holds at a position that calibration did not reach is what the other held before.
"""

from __future__ import annotations

import torch

from exaone_export.errors import CalibrationError

from .number_formats import NumberFormat

__all__ = ["cache_scale"]


def cache_scale(maximum: torch.Tensor, number_format: NumberFormat, rotary: bool) -> torch.Tensor:
    """The scales of a layer's keys or values.

    Args:
        maximum: ``[num_key_value_heads, head_dim]``, the largest magnitude of each channel as the cache holds it.
        number_format: What the cache is rounded to.
        rotary: Whether these are keys of a layer that rotates them; the two channels of a pair then share a scale.

    Returns:
        ``[num_key_value_heads, head_dim]`` float32. A channel that stayed at zero is given the largest scale of its
        head, so that what it may hold later is not cut off.

    Raises:
        CalibrationError: A maximum is negative or not finite, or a whole head stayed at zero.
    """
    if not torch.isfinite(maximum).all() or bool((maximum < 0).any()):
        raise CalibrationError("what the cache held is not finite; check the checkpoint and the data.")
    reach = maximum.float().amax(-1, keepdim=True)
    if bool((reach == 0).any()):
        head = int((reach == 0).flatten().nonzero()[0])
        raise CalibrationError(f"the cache of key-value head {head} held nothing but zeros; calibrate with other data.")
    if rotary:
        first, second = maximum.float().chunk(2, -1)
        maximum = torch.maximum(first, second).repeat(1, 2)
    return number_format.scale(torch.where(maximum > 0, maximum.float(), reach))
