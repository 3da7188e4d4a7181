"""Rolling a layer's cache back to an earlier length, exactly.

``evicted`` is a step function of the length, so going back by a few tokens may move the window's first row: rows have
to shift to the right, and evicted rows are restored from a journal, or proven unnecessary.

Legend: B batch, H num_key_value_heads, C capacity, D head_dim; T tokens before the rollback, N after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from exaone_export.targets.cache_layout import LayerCache

from .memory import Memory


class _Saved(NamedTuple):
    """What one step evicted of one layer: key and value ``[B, H, n, D]``, and each row's first position and number."""

    tensors: tuple[Any, Any]
    firsts: list[int]
    counts: list[int]


@dataclass
class EvictionJournal:
    """Rows that left the local layers since a mark.

    Attributes:
        marked: Tokens that each row of the batch held at the mark.
        up_to: Positions of each row from which on nothing is saved; None to save all.
        saved: By layer, what each step evicted.
        was_used: Whether rows have gone back since the mark.
    """

    marked: list[int]
    up_to: list[int] | None = None
    saved: dict[int, list[_Saved]] = field(default_factory=dict)
    was_used: bool = False

    def save(
        self,
        index: int,
        layer: LayerCache,
        buffers: tuple[Any, Any],
        before: Sequence[int],
        after: Sequence[int],
        memory: Memory,
    ) -> None:
        """Copy what a step from ``before`` to ``after`` tokens will evict; call it before the step."""
        firsts = [layer.evicted(old) for old in before]
        if self.up_to is not None and all(first >= end for first, end in zip(firsts, self.up_to, strict=True)):
            return
        counts = [layer.evicted(new) - first for new, first in zip(after, firsts, strict=True)]
        widest = max(counts)
        if not widest:
            return
        # A longer step would evict tokens that were never in the cache.
        assert all(layer.evicted(new) <= old for old, new in zip(before, after, strict=True))
        key, value = (memory.copy(tensor[:, :, :widest]) for tensor in buffers)
        self.saved.setdefault(index, []).append(_Saved((key, value), firsts, counts))

    def holds(self, layer: LayerCache, row: int, tokens: int, length: int) -> bool:
        """Whether all that a row of ``tokens`` tokens has evicted since the mark, below ``length``, was saved."""
        return self.up_to is None or min(length, layer.evicted(tokens)) <= self.up_to[row]

    def positions(self, layer: LayerCache, row: int, tokens: int) -> range:
        """Those that a row of ``tokens`` tokens has evicted since the mark, as far as they are saved."""
        first, stop = layer.evicted(self.marked[row]), layer.evicted(tokens)
        return range(first, max(first, stop if self.up_to is None else min(stop, self.up_to[row])))

    def gather(self, index: int, layer: LayerCache, tokens: int, empty: Callable[[int], Any]) -> tuple[Any, ...]:
        """Save what `positions` names of the only row in one array of keys and one of values.

        Args:
            index: Of the layer.
            layer: Capacity and window.
            tokens: Tokens of the row.
            empty: Makes an array ``[1, H, n, D]`` of so many rows.

        Returns:
            Both ``[H, n, D]``, to read or, where nothing was saved yet, to fill; none if ``n`` is 0.
        """
        positions = self.positions(layer, 0, tokens)
        if not positions:
            return ()
        steps = self.saved.get(index, [])
        if [(step.firsts, step.counts) for step in steps] != [([positions.start], [len(positions)])]:
            key, value = empty(len(positions)), empty(len(positions))
            for which, rows in enumerate((key, value)):
                _fill(rows[0], positions.start, self.rows(index, which, 0))
            self.saved[index] = [_Saved((key, value), [positions.start], [len(positions)])]
        return tuple(tensor[0] for tensor in self.saved[index][0].tensors)

    def rows(self, index: int, which: int, row: int) -> Iterator[tuple[int, Any]]:
        """What was saved of one row of the batch, the latest last: a first position, and the rows ``[H, n, D]``.

        ``which`` is 0 for keys and 1 for values.
        """
        for tensors, firsts, counts in self.saved.get(index, ()):
            yield firsts[row], tensors[which][row, :, : counts[row]]


def held_from(layer: LayerCache, tokens: int, marked: Sequence[int], lost: int) -> int:
    """The oldest position that is still held, in the buffer or in a journal that was begun at so many tokens."""
    return max(lost, layer.evicted(min(tokens, *marked) if marked else tokens))


def can_return(layer: LayerCache, length: int, held: int) -> bool:
    """Whether all that a query at position ``length`` sees is held."""
    return layer.oldest_needed(length) >= min(held, length)


def shift_back(
    buffer_HCD: Any,
    layer: LayerCache,
    tokens: int,
    length: int,
    saved: Iterable[tuple[int, Any]],
    memory: Memory,
) -> None:
    """Make row ``i`` of one layer hold position ``evicted(length) + i`` again.

    Args:
        buffer_HCD: ``[H, C, D]``, keys or values of one row of the batch, changed in place.
        layer: Capacity and window.
        tokens: T.
        length: N, at most T.
        saved: Evicted rows, as `EvictionJournal.rows` gives them.
        memory: Where they live.
    """
    first = layer.evicted(length)
    shift = layer.evicted(tokens) - first
    rows = layer.resident_rows(length)
    if not shift or not rows:
        return
    head, tail = min(shift, rows), max(rows - shift, 0)
    if tail:
        buffer_HCD[:, shift : shift + tail] = memory.copy(buffer_HCD[:, :tail])
    # What was not saved is older than anything the next query reads, and must only be finite.
    buffer_HCD[:, :head] = 0
    _fill(buffer_HCD[:, :head], first, saved)


def _fill(rows_HnD: Any, first: int, saved: Iterable[tuple[int, Any]]) -> None:
    """Copy what was saved of the positions from ``first`` on into as many rows as there are."""
    for begin, saved_HmD in saved:
        start, stop = max(begin, first), min(begin + saved_HmD.shape[1], first + rows_HnD.shape[1])
        if start < stop:
            rows_HnD[:, start - first : stop - first] = saved_HmD[:, start - begin : stop - begin]
