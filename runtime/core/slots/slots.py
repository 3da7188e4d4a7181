"""`Slots`: the rows of one static cache, so that the steps of several answers are one.

A step of n rows has a smaller shape at the address of n rows that follow each other: so those that take part are the
first ones, or one alone wherever it is. A row that is in the way changes places.

Legend: B slots of a step, K positions whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from exaone_export.errors import CapacityError, UnsupportedOptionError

from ..buffers import CacheBuffers
from ..cancellation import Cancellation
from ..session import Session
from .prefixes import best
from .slot import Slot
from .steps import run_step

__all__ = ["Slots"]


class Slots:
    """The conversations of an engine, each in a row of the cache.

    Rows that no token reaches cost no memory on the CPU.

    Args:
        session: Runs the graph.
        count: How many.
        chunk: Tokens of a prompt that one step takes at most.

    Raises:
        CapacityError: There is no memory for as many.
        UnsupportedOptionError: The session's steps have no room for as many, or it is below 1.
    """

    def __init__(self, session: Session, count: int, chunk: int) -> None:
        _check(session, count)
        self._session, self._uses = session, 0
        try:
            self._buffers = CacheBuffers(session.geometry, count)
        except (MemoryError, OSError) as cause:
            raise CapacityError(
                f"this machine has no memory for the caches of {count} slots of {session.geometry.layout.max_length} "
                f"tokens; open the artifact with fewer slots, or export the model with a smaller --max-length."
            ) from cause
        self._slots = [Slot(session, self._buffers.part(row, row + 1), row, chunk) for row in range(count)]

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def take(self, prompt: Sequence[int], busy: Collection[Slot] = ()) -> Slot:
        """The slot that a prompt is best run in, of those that are not ``busy``."""
        return self.use(best([slot for slot in self._slots if slot not in busy], prompt))

    def latest(self) -> Slot:
        """The slot of the latest conversation."""
        return max(self._slots, key=lambda slot: slot.used)

    def use(self, slot: Slot) -> Slot:
        """Make it the latest one."""
        self._uses += 1
        slot.used = self._uses
        return slot

    def step(
        self, slots: Sequence[Slot], tokens: Sequence[Sequence[int]], cancellation: Cancellation
    ) -> Sequence[np.ndarray]:
        """Append tokens, as many to each slot, and give the logits ``[K, V]`` of each slot.

        One slot alone may bring guesses: the logits are then those behind each of its tokens.

        Raises:
            CancelledError: The step was cancelled; nothing was appended.
            Exception: The step failed; the slots are empty.
        """
        if len(slots) == 1:
            return [slots[0].step(tokens[0], cancellation, judged=len(tokens[0]))]
        self._arrange(slots)
        order = sorted(range(len(slots)), key=lambda index: slots[index].row)
        logits_BKV = run_step(
            self._session,
            [slots[index] for index in order],
            [tokens[index] for index in order],
            self._buffers.part(0, len(slots)),
            cancellation,
        )
        return [logits_BKV[slot.row] for slot in slots]

    def _arrange(self, slots: Sequence[Slot]) -> None:
        """Make them the first rows; what was there instead is kept where they were."""
        others = [slot for slot in self._slots if slot.row < len(slots) and slot not in slots]
        for slot in slots:
            if slot.row >= len(slots):
                slot.exchange(others.pop())


def _check(session: Session, count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UnsupportedOptionError(f"slots is {count!r:.40}; it must be at least 1.")
    if not session.geometry.in_place and count > 1:
        raise UnsupportedOptionError(
            f"slots is {count}, and this artifact's graph writes its caches to other memory than it reads, which "
            f"allows 1; export the model with --target ort-cpu for more."
        )
    if session.max_batch is not None and count > session.max_batch:
        raise UnsupportedOptionError(
            f"slots is {count}, and this artifact's engine has room for {session.max_batch}; build it with "
            f"--max-batch {count}."
        )
