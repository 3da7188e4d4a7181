"""SmoothQuant: factors that move the largest inputs of a product into its weight.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2022. Inputs
are divided by a factor a channel, and the weight's input channels multiplied by it. In EXAONE 4 the norms are on the
outputs of a sublayer, so no norm takes the division. Two products do: each output channel of the value projection
becomes input channels of the output projection by sums over positions alone, and each one of the up projection an
input channel of the down projection by a product alone. Elsewhere the division is explicit.

Legend: D head_dim, N attention heads, K key-value heads.
"""

from __future__ import annotations

import torch

from exaone_export.errors import CalibrationError

__all__ = ["share_in_groups", "smoothing"]


def smoothing(channel_maximum: torch.Tensor, weight: torch.Tensor, alpha: float = 0.5) -> torch.Tensor:
    """``max|x| ** alpha / max|w| ** (1 - alpha)`` of every input channel (equation 4 of the paper).

    Args:
        channel_maximum: ``[in]``, the largest magnitude of each input channel.
        weight: ``[out, in]`` of any float dtype. Products that share their inputs share factors: stack them.
        alpha: How much of the difficulty moves into the weight, from 0 to 1.

    Returns:
        ``[in]`` float32, above zero. Where a channel of the inputs or of the weight is zero, the median of the others:
        a factor of another magnitude would make its weights the largest of their rows, and their steps coarse.

    Raises:
        CalibrationError: A maximum is not finite, or ``alpha`` is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise CalibrationError(f"smoothing's alpha is {alpha:g}, and it must be from 0 to 1.")
    if not torch.isfinite(channel_maximum).all():
        raise CalibrationError("the inputs of a product are not finite; check the checkpoint and the data.")
    largest = weight.abs().amax(0).float()
    factor = channel_maximum.float() ** alpha / largest ** (1 - alpha)
    usable = (channel_maximum > 0) & (largest > 0) & torch.isfinite(factor) & (factor > 0)
    return torch.where(usable, factor, factor[usable].median() if usable.any() else 1.0)


def share_in_groups(factor: torch.Tensor, num_attention_heads: int, num_key_value_heads: int) -> torch.Tensor:
    """One factor for each channel of a value head, the largest of those of the attention heads that it serves.

    Args:
        factor: ``[N * D]``, of the output projection's input channels.
        num_attention_heads: N.
        num_key_value_heads: K; head n is served by value head ``n // (N / K)``.

    Returns:
        ``[K * D]``.
    """
    return factor.reshape(num_key_value_heads, num_attention_heads // num_key_value_heads, -1).amax(1).reshape(-1)
