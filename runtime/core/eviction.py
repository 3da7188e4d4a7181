"""Eviction after a step, for graphs that only append.

Legend: B batch, H num_key_value_heads, R rows of the layer's buffer, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from exaone_export.targets.cache_layout import CacheLayout, LayerCache

from .buffers import CacheBuffers


def evict(
    tensors_BHRD: Sequence[torch.Tensor], layout: CacheLayout, before: Sequence[int], after: Sequence[int]
) -> None:
    """Move every layer's rows to the front, as `exaone_export.targets.cache_layout` has them after a step.

    Args:
        tensors_BHRD: Key, value, key, value, … of all layers, changed in place.
        layout: The caches.
        before: Tokens that each row of the batch held before the step.
        after: Tokens that each row holds after it.
    """
    shifts = {layer: _shifts(layer, before, after) for layer in set(layout.layers) if layer.headroom}
    for index, layer in enumerate(layout.layers):
        for row, shift in shifts.get(layer, ()):
            rows = layer.resident_rows(after[row])
            for tensor in tensors_BHRD[2 * index : 2 * index + 2]:
                kept_HrD = tensor[row, :, shift : shift + rows]
                # The two ranges may overlap.
                tensor[row, :, :rows] = kept_HrD.clone() if shift < rows else kept_HrD


def evict_behind_step(
    buffers: CacheBuffers, layout: CacheLayout, position_ids: torch.Tensor, total: torch.Tensor
) -> None:
    """`evict` after a step.

    Args:
        buffers: The caches.
        layout: Their layout.
        position_ids: ``[B, S]`` of the step, below 0 for padding.
        total: ``[B]``, tokens that each row holds after it.
    """
    if layout.longest_step is not None:
        before = total - (position_ids >= 0).sum(1)
        evict(buffers.tensors, layout, before.tolist(), total.tolist())


def _shifts(layer: LayerCache, before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """Rows of the batch that lose anything, and how much."""
    lost = [layer.evicted(new) - layer.evicted(old) for old, new in zip(before, after, strict=True)]
    return [(row, shift) for row, shift in enumerate(lost) if shift]
