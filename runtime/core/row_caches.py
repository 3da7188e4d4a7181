"""`RowCaches`: the caches of a batch of rows, each a dense run of tokens, without padding.

What the buffers hold after so many tokens is the law of `exaone_export.targets.cache_layout`. This is where a step's
evictions are saved, where rows are evicted behind a step whose graph only appends, and where they go back to an earlier
length.

Legend: B rows of the batch.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from exaone_export.errors import CacheRollbackError
from exaone_export.targets.cache_layout import LayerCache

from .buffers import BufferPool, CacheBuffers
from .eviction import evict
from .kept.row_state import RowState
from .rollback import EvictionJournal, can_return, held_from, shift_back


class RowCaches:
    """Buffers of ``B`` rows, the tokens that each row holds, and what is needed to take tokens back.

    Buffers come from ``pool`` and return to it when nothing refers to this object any more.

    Args:
        pool: Where buffers come from.
        buffers: Those of its rows, which are used instead of the pool's; somebody else owns them.

    Attributes:
        geometry: Layout, heads and dtype.
        lengths: Tokens that each of the ``B`` rows holds; empty before `allocate`.
        narrowest_window: The shortest window of the layers that evict; 0 if none does.
    """

    def __init__(self, pool: BufferPool, buffers: CacheBuffers | None = None) -> None:
        self.geometry = pool.geometry
        self.lengths: list[int] = [] if buffers is None else [0] * buffers.batch
        self._pool, self._buffers = pool, buffers
        self._finalizer: weakref.finalize | None = None
        self._lost: dict[LayerCache, list[int]] = {}
        self._journal: EvictionJournal | None = None
        self._trial: EvictionJournal | None = None
        self._unfinished = False
        layout = self.geometry.layout
        self._appends = layout.longest_step is not None
        self._evicting = [(i, layer) for i, layer in enumerate(layout.layers) if layer.evicts(layout.max_length)]
        self._kinds = {layer for _, layer in self._evicting}
        self.narrowest_window = min((layer.window for _, layer in self._evicting), default=0)

    @property
    def buffers(self) -> CacheBuffers:
        """The buffers; `allocate` has taken them."""
        assert self._buffers is not None
        return self._buffers

    @property
    def _journals(self) -> list[EvictionJournal]:
        return [each for each in (self._journal, self._trial) if each is not None]

    @property
    def is_allocated(self) -> bool:
        """Whether there are buffers."""
        return self._buffers is not None

    @property
    def is_recording(self) -> bool:
        """Whether evicted rows are saved."""
        return self._journal is not None

    @property
    def has_returned(self) -> bool:
        """Whether `return_to` was called since the latest `mark`."""
        return self._journal is not None and self._journal.was_used

    def allocate(self, batch: int) -> None:
        """Take buffers for ``batch`` empty rows, unless there are buffers of that size."""
        if self._buffers is None or self._buffers.batch != batch:
            self._release()
            self._hold(self._pool.take(batch))
            self.lengths = [0] * batch
            self.clear()

    def clear(self) -> None:
        """Forget every token; the buffers stay."""
        self.lengths = [0] * len(self.lengths)
        self._lost, self._journal, self._trial, self._unfinished = {}, None, None, False

    # One row, kept and restored

    def state(self) -> RowState:
        """What the only row holds, beside the numbers that `contents` gives."""
        journal, lost = self._journal, [self._lost.get(layer, [0])[0] for _, layer in self._evicting]
        if journal is None:
            return RowState(self.lengths[0], lost, None, None)
        return RowState(self.lengths[0], lost, journal.marked[0], None if journal.up_to is None else journal.up_to[0])

    def restore(self, state: RowState) -> None:
        """Take buffers for one row of this state; the caller fills what `contents` then gives."""
        self.allocate(1)
        self.clear()
        self.lengths, self._journal = [state.length], state.journal()
        self._lost = {layer: [lost] for (_, layer), lost in zip(self._evicting, state.lost, strict=True)}

    def contents(self) -> Iterator[Any]:
        """The only row's keys and values and those that a mark saved, ``[H, n, D]``, as `RowState.rows` names them."""
        length, geometry = self.lengths[0], self.geometry
        for index, layer in enumerate(geometry.layout.layers):
            for tensor in self.buffers.layer(index):
                yield tensor[0, :, : layer.resident_rows(length)]
        if self._journal is not None:
            for index, layer in self._evicting:
                yield from self._journal.gather(index, layer, length, geometry.rows)

    # Steps

    def mark(self, up_to: Sequence[int] | None = None) -> None:
        """Save what is evicted from here on, until `stop_recording`; `return_to` can then go back to this point.

        Args:
            up_to: The most tokens of each row that it will go back to once it has evicted those; what is evicted
                beyond is not saved. None for any.
        """
        if self._journal is None and self._evicting:
            self._journal = EvictionJournal(list(self.lengths), None if up_to is None else list(up_to))

    def stop_recording(self) -> None:
        """Drop the evicted rows that were saved."""
        self._journal = self._trial = None

    def begin_trial(self) -> None:
        """Save what is evicted until `end_trial`, whatever a mark saves; `return_to` can go back to this point."""
        if self._evicting:
            self._trial = EvictionJournal(list(self.lengths))

    def end_trial(self) -> None:
        """Drop what was saved since `begin_trial`."""
        self._trial = None

    def check_whole(self) -> None:
        """Raise CacheRollbackError if the latest step was interrupted after it had begun to evict."""
        if self._unfinished:
            raise CacheRollbackError(
                "the cache's last step was interrupted while it evicted; start a new cache, or call reset(), and run "
                "the conversation again."
            )

    def prepare(self, after: Sequence[int]) -> None:
        """Before a step that makes the rows ``after`` tokens long: save what it will evict, if that is recorded."""
        # What a step has evicted is gone, whether it ends or not; what it appends is written again by the next one.
        self._unfinished = self.geometry.in_place and self.evicts_between(self.lengths, after)
        for journal in self._journals:
            for index, layer in self._evicting:
                journal.save(index, layer, self.buffers.layer(index), self.lengths, after, self.geometry.memory)

    def advance(self, after: Sequence[int]) -> None:
        """After a step that has made the rows ``after`` tokens long: evict, where the graph only appends."""
        if self._appends:
            evict(self.buffers.tensors, self.geometry.layout, self.lengths, after, self.geometry.memory)
        self.lengths, self._unfinished = list(after), False

    def assume(self, lengths: Sequence[int]) -> None:
        """Count so many tokens of each row, which no step has run; the next query reads whatever the buffers hold."""
        self.clear()
        self.lengths = list(lengths)

    def evicts_between(self, before: Sequence[int], after: Sequence[int]) -> bool:
        """Whether any row evicts anything while it grows from ``before`` to ``after`` tokens."""
        pairs = zip(before, after, strict=True)
        return any(layer.evicted(old) != layer.evicted(new) for old, new in pairs for layer in self._kinds)

    # Rows

    def can_return_to(self, after: Sequence[int]) -> bool:
        """Whether `return_to` can."""
        with contextlib.suppress(CacheRollbackError):
            self._held_for(after)
            return True
        return False

    def _held_for(self, after: Sequence[int]) -> dict[LayerCache, list[int]]:
        """Of each kind of layer, the oldest position of each row that is held; raises what `return_to` does."""
        before, journals = self.lengths, self._journals
        held: dict[LayerCache, list[int]] = {}
        for layer in self._kinds:
            lost = self._lost.get(layer, [0] * len(before))
            held[layer] = [
                held_from(
                    layer,
                    tokens,
                    [each.marked[row] for each in journals if each.holds(layer, row, tokens, after[row])],
                    lost[row],
                )
                for row, tokens in enumerate(before)
            ]
            for tokens, length, oldest in zip(before, after, held[layer], strict=True):
                if not can_return(layer, length, oldest):
                    raise CacheRollbackError(
                        f"the cache cannot go back from {tokens} to {length} tokens, because a window of "
                        f"{layer.window} then begins at position {layer.oldest_needed(length)} and nothing before "
                        f"{oldest} is held; run the first {length} tokens again."
                    )
        return held

    def return_to(self, after: Sequence[int]) -> None:
        """Take every row back to ``after`` tokens, exactly; nothing changes unless all rows can go back.

        Raises:
            CacheRollbackError: A row that the next query reads is no longer held.
        """
        before, journals = self.lengths, self._journals
        if self._journal is not None:
            self._journal.was_used = True
        if list(after) == before:
            return
        held = self._held_for(after)
        for index, layer in self._evicting:
            for which, tensor in enumerate(self.buffers.layer(index)):
                for row, (tokens, length) in enumerate(zip(before, after, strict=True)):
                    saved = chain.from_iterable(each.rows(index, which, row) for each in journals)
                    shift_back(tensor[row], layer, tokens, length, saved, self.geometry.memory)
        for layer, oldest_held in held.items():
            before_lost = self._lost.get(layer, [0] * len(before))
            self._lost[layer] = [
                # Where all rows of the buffer are held again, a mark may still hold what was before them.
                lost if oldest <= layer.evicted(length) else min(oldest, length)
                for lost, oldest, length in zip(before_lost, oldest_held, after, strict=True)
            ]
        if self._journal is not None and any(n < m for n, m in zip(after, self._journal.marked, strict=True)):
            self._journal = self._trial = None
        self.lengths = list(after)

    def move_to(self, buffers: CacheBuffers) -> None:
        """Use other buffers that hold the same, instead of those given."""
        self._buffers = buffers

    def reorder(self, order: Sequence[int]) -> None:
        """Make row ``r`` what row ``order[r]`` was; as many rows as before, and only changed ones are copied."""
        moved = [row for row, source in enumerate(order) if row != source]
        if not moved:
            return
        sources = [order[row] for row in moved]
        for index, rows in enumerate(self._rows_in_use()):
            for tensor in self.buffers.layer(index):
                tensor[moved, :, :rows] = tensor[sources, :, :rows]
        self._select_state(order)

    def select(self, order: Sequence[int]) -> None:
        """Keep the rows that ``order`` names, in its order, in new buffers."""
        buffers = self._copied(len(order), list(order))
        self._release()
        self._hold(buffers)
        self._select_state(order)

    def __deepcopy__(self, memo: dict[int, object]) -> RowCaches:
        twin = RowCaches(self._pool)
        memo[id(self)] = twin
        if self._buffers is not None:
            twin._hold(self._copied(len(self.lengths), slice(None)))
        twin.lengths, twin._unfinished = list(self.lengths), self._unfinished
        twin._lost, twin._journal = copy.deepcopy(self._lost), copy.deepcopy(self._journal)
        return twin

    def _copied(self, batch: int, order: list[int] | slice) -> CacheBuffers:
        copied = CacheBuffers(self.geometry, batch)
        for index, rows in enumerate(self._rows_in_use()):
            for target, source in zip(copied.layer(index), self.buffers.layer(index), strict=True):
                target[:, :, :rows] = source[order, :, :rows]
        return copied

    def _rows_in_use(self) -> list[int]:
        """Rows of every layer's buffer that may hold a position."""
        # A shorter row of the batch may have more resident rows than the longest, which has just evicted.
        longest = max(self.lengths, default=0)
        return [min(longest, layer.capacity) for layer in self.geometry.layout.layers]

    def _select_state(self, order: Sequence[int]) -> None:
        self.lengths = [self.lengths[row] for row in order]
        self._lost = {layer: [lost[row] for row in order] for layer, lost in self._lost.items()}
        self._journal = None

    def _hold(self, buffers: CacheBuffers) -> None:
        self._buffers = buffers
        self._finalizer = weakref.finalize(self, self._pool.give, buffers)
        self._finalizer.atexit = False

    def _release(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._buffers = self._finalizer = None
