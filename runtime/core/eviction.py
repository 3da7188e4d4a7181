"""Eviction after a step, for graphs that only append.

Legend: B batch, H num_key_value_heads, R rows of the layer's buffer, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exaone_export.targets.cache_layout import CacheLayout, LayerCache

from .memory import HOST, Memory


def evict(
    tensors_BHRD: Sequence[Any],
    layout: CacheLayout,
    before: Sequence[int],
    after: Sequence[int],
    memory: Memory = HOST,
) -> None:
    """Move every layer's rows to the front, as `exaone_export.targets.cache_layout` has them after a step.

    Args:
        tensors_BHRD: Key, value, key, value, … of all layers, changed in place.
        layout: The caches.
        before: Tokens that each row of the batch held before the step.
        after: Tokens that each row holds after it.
        memory: Where they live.
    """
    shifts = {layer: _shifts(layer, before, after) for layer in set(layout.layers) if layer.headroom}
    for index, layer in enumerate(layout.layers):
        for row, shift in shifts.get(layer, ()):
            rows = layer.resident_rows(after[row])
            for tensor in tensors_BHRD[2 * index : 2 * index + 2]:
                kept_HrD = tensor[row, :, shift : shift + rows]
                # The two ranges may overlap.
                tensor[row, :, :rows] = memory.copy(kept_HrD) if shift < rows else kept_HrD


def _shifts(layer: LayerCache, before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """Rows of the batch that lose anything, and how much."""
    lost = [layer.evicted(new) - layer.evicted(old) for old, new in zip(before, after, strict=True)]
    return [(row, shift) for row, shift in enumerate(lost) if shift]
