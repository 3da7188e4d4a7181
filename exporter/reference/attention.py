"""``exaone::hybrid_attention``: the PyTorch operator that the reference runs and that tracing records as one node.

Legend: B batch, S query length, C cache capacity, D head_dim, N attention heads, K key-value heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from exaone_export.targets.cache_layout import evicted_positions


@torch.library.custom_op("exaone::hybrid_attention", mutates_args=())
def hybrid_attention(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    past_key: torch.Tensor,
    past_value: torch.Tensor,
    past_lengths: torch.Tensor,
    query_lengths: torch.Tensor,
    num_heads: int,
    num_key_value_heads: int,
    scale: float,
    window: int,
    rotary: bool,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """QK-norm or none, RoPE or none, the cache update and grouped-query attention of one EXAONE layer.

    Row ``b`` brings ``query_lengths[b]`` tokens at positions ``past_lengths[b] + i``; what stands behind them in the
    chunk is padding, and what the operator returns there is unspecified. The cache keeps the law of
    `exaone_export.targets.cache_layout`.

    Args:
        qkv: ``[B, S, (N + 2 K) * D]``, queries, keys and values packed; float32, bfloat16 or float16. S is at most
            ``max_length``.
        q_norm: ``[D]`` float32, RMSNorm weight of the queries; None where they are not normalized.
        k_norm: ``[D]`` float32, RMSNorm weight of the keys; None where they are not normalized.
        cos: ``[max_length, D / 2]`` float32.
        sin: ``[max_length, D / 2]`` float32.
        past_key: ``[B, K, C, D]``, keys after norm and RoPE.
        past_value: ``[B, K, C, D]``.
        past_lengths: ``[B]`` int64, tokens that the cache has seen.
        query_lengths: ``[B]`` int64, tokens of this chunk, from 0 to S.
        num_heads: N.
        num_key_value_heads: K.
        scale: Factor of the scores.
        window: Keys that a query sees, itself included; 0 for all.
        rotary: Whether queries and keys are rotated.
        epsilon: Of both RMSNorms.

    Returns:
        ``[B, S, N * D]``, and both caches after the step, each ``[B, K, C, D]``.
    """
    B, S, _ = qkv.shape
    capacity, head_dim = past_key.shape[2:]
    heads_BSHD = qkv.view(B, S, num_heads + 2 * num_key_value_heads, head_dim)
    q_BNSD, k_BKSD, v_BKSD = heads_BSHD.transpose(1, 2).split((num_heads, num_key_value_heads, num_key_value_heads), 1)
    # Both norms and rotations in float32, rounded once.
    q_BNSD, k_BKSD = _rms_norm(q_BNSD, q_norm, epsilon), _rms_norm(k_BKSD, k_norm, epsilon)

    total = past_lengths + query_lengths
    past_evicted, evicted = (evicted_positions(tokens, capacity, window) for tokens in (past_lengths, total))
    steps = torch.arange(S, device=qkv.device)
    query_position = past_lengths[:, None] + steps
    if rotary:
        # Padding may reach past the last position; its angle does not matter.
        angle = query_position.clamp(max=cos.shape[0] - 1)
        cos_BSd, sin_BSd = cos[angle], sin[angle]
        q_BNSD, k_BKSD = _rotate(q_BNSD, cos_BSd, sin_BSd), _rotate(k_BKSD, cos_BSd, sin_BSd)
    q_BNSD, k_BKSD = q_BNSD.to(qkv.dtype), k_BKSD.to(qkv.dtype)

    # Keys in the order of their positions: the cache's resident rows, a gap of stale ones, then the chunk.
    slots = torch.arange(capacity, device=qkv.device)
    resident = slots < (past_lengths - past_evicted)[:, None]
    fresh = steps < query_lengths[:, None]
    valid_BT = torch.cat((resident, fresh), 1)
    position_BT = torch.cat((past_evicted[:, None] + slots, query_position), 1)
    # Stale slots and padding may hold anything, NaN too, and 0 * NaN would reach the output.
    k_BKTD = torch.cat((past_key, k_BKSD), 2).masked_fill(~valid_BT[:, None, :, None], 0)
    v_BKTD = torch.cat((past_value, v_BKSD), 2).masked_fill(~valid_BT[:, None, :, None], 0)

    # Padded queries look from the last position, so that no row of the mask is empty.
    looking = torch.minimum(query_position, (total - 1)[:, None])[:, :, None]
    seen_BST = valid_BT[:, None] & (position_BT[:, None] <= looking)
    if window:
        seen_BST &= position_BT[:, None] > looking - window
    output = F.scaled_dot_product_attention(
        q_BNSD, k_BKTD, v_BKTD, attn_mask=seen_BST[:, None], scale=scale, enable_gqa=num_heads != num_key_value_heads
    )

    # Row i of the new cache is position evicted + i; the chunk stands at C, behind the old rows.
    position = evicted[:, None] + slots
    source = torch.where(
        position < past_lengths[:, None], position - past_evicted[:, None], capacity + position - past_lengths[:, None]
    )
    source = source.clamp(0, capacity + S - 1)[:, None, :, None].expand(B, num_key_value_heads, capacity, head_dim)
    return (
        output.transpose(1, 2).reshape(B, S, num_heads * head_dim),
        k_BKTD.gather(2, source),
        v_BKTD.gather(2, source),
    )


@hybrid_attention.register_fake
def _(qkv, q_norm, k_norm, cos, sin, past_key, past_value, past_lengths, query_lengths, num_heads, *_attributes):  # type: ignore[no-untyped-def]
    B, S, _ = qkv.shape
    return qkv.new_empty(B, S, num_heads * past_key.shape[3]), torch.empty_like(past_key), torch.empty_like(past_value)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """RMSNorm over the last dimension, in float32 (Zhang and Sennrich, 2019); without a weight, float32 alone."""
    x32 = x.float()
    if weight is None:
        return x32
    return weight * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + epsilon))


def _rotate(x_BHSD: torch.Tensor, cos_BSd: torch.Tensor, sin_BSd: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding over halves (Su et al., 2021, in the layout of GPT-NeoX)."""
    first, second = x_BHSD.chunk(2, -1)
    cos_B1Sd, sin_B1Sd = cos_BSd[:, None], sin_BSd[:, None]
    return torch.cat((first * cos_B1Sd - second * sin_B1Sd, second * cos_B1Sd + first * sin_B1Sd), -1)
