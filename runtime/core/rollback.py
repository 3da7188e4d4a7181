"""Rolling a layer's cache back to an earlier length, exactly.

``evicted`` is a step function of the length, so going back by a few tokens may move the window's first row: rows have
to shift to the right, and evicted rows are restored from a journal, or proven unnecessary.

Legend: B batch, H num_key_value_heads, C capacity, D head_dim; T tokens before the rollback, N after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from exaone_export.targets.cache_layout import LayerCache


@dataclass
class EvictionJournal:
    """Rows that left the local layers since a mark.

    Attributes:
        marked: Tokens that each row of the batch held at the mark.
        saved: By layer, the rows each step evicted: key and value ``[B, H, n, D]``, and how many of the ``n`` rows each
            row of the batch really lost.
    """

    marked: list[int]
    saved: dict[int, list[tuple[torch.Tensor, torch.Tensor, list[int]]]] = field(default_factory=dict)

    def save(
        self,
        index: int,
        layer: LayerCache,
        buffers: tuple[torch.Tensor, torch.Tensor],
        before: Sequence[int],
        after: Sequence[int],
    ) -> None:
        """Copy what a step from ``before`` to ``after`` tokens will evict; call it before the step."""
        counts = [layer.evicted(new) - layer.evicted(old) for old, new in zip(before, after, strict=True)]
        widest = max(counts)
        if not widest:
            return
        # A longer step would evict tokens that were never in the cache.
        assert all(layer.evicted(new) <= old for old, new in zip(before, after, strict=True))
        key, value = (tensor[:, :, :widest].clone() for tensor in buffers)
        self.saved.setdefault(index, []).append((key, value, counts))

    def rows(self, index: int, layer: LayerCache, which: int, row: int, tokens: int) -> torch.Tensor | None:
        """Positions ``[evicted(marked), evicted(tokens))`` of one row of the batch, ``[H, n, D]``, or None.

        ``which`` is 0 for keys and 1 for values. An earlier rollback may have made ``tokens`` less than was saved.
        """
        entries = self.saved.get(index, ())
        pieces = [(value if which else key)[row, :, : counts[row]] for key, value, counts in entries]
        count = layer.evicted(tokens) - layer.evicted(self.marked[row])
        return torch.cat(pieces, 1)[:, :count] if pieces else None


def held_from(layer: LayerCache, tokens: int, marked: int | None, lost: int) -> int:
    """The oldest position that is still held, in the buffer or from a journal marked at ``marked`` tokens."""
    return max(lost, layer.evicted(tokens if marked is None else marked))


def can_return(layer: LayerCache, length: int, held: int) -> bool:
    """Whether all that a query at position ``length`` sees is held."""
    return layer.oldest_needed(length) >= min(held, length)


def shift_back(
    buffer_HCD: torch.Tensor, layer: LayerCache, tokens: int, length: int, older_HnD: torch.Tensor | None
) -> None:
    """Make row ``i`` of one layer hold position ``evicted(length) + i`` again.

    Args:
        buffer_HCD: ``[H, C, D]``, keys or values of one row of the batch, changed in place.
        layer: Capacity and window.
        tokens: T.
        length: N, at most T.
        older_HnD: The positions just before ``evicted(tokens)``, as many as were kept.
    """
    shift = layer.evicted(tokens) - layer.evicted(length)
    rows = layer.resident_rows(length)
    if not shift or not rows:
        return
    head, tail = min(shift, rows), max(rows - shift, 0)
    if tail:
        buffer_HCD[:, shift : shift + tail] = buffer_HCD[:, :tail].clone()
    # What was not saved is older than anything the next query reads, and must only be finite.
    back_HnD = buffer_HCD.new_zeros(buffer_HCD.shape[0], shift, buffer_HCD.shape[2])
    if older_HnD is not None:
        kept = min(shift, older_HnD.shape[1])
        back_HnD[:, shift - kept :] = older_HnD[:, older_HnD.shape[1] - kept :]
    buffer_HCD[:, :head] = back_HnD[:, :head]
