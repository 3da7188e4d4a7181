"""`Slot`: one row of caches and the tokens that it holds, from which the next prompt goes on as far as it is the same.

Legend: V vocabulary, N tokens that a prompt shares with those that are held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from exaone_export.errors import CacheRollbackError

from .buffers import BufferPool
from .cancellation import Cancellation
from .row_caches import RowCaches
from .session import Session
from .steps import Step

__all__ = ["Slot"]

_TAIL = 16
"""Tokens at a prompt's end that may be taken back whatever is evicted behind them: a chat template writes the place
where the model's turn begins in another way once that turn is past."""


class Slot:
    """The caches of one conversation.

    Args:
        session: Runs the graph, on the CPU.
        pool: Where buffers come from.
        chunk: Tokens of a prompt that one step takes at most.

    Attributes:
        tokens: Those that the caches hold.
    """

    def __init__(self, session: Session, pool: BufferPool, chunk: int) -> None:
        self._session, self._rows = session, RowCaches(pool)
        self._chunk = min(chunk, session.longest_step or chunk)
        self._tail = min(_TAIL, self._rows.narrowest_window)
        self.tokens: list[int] = []

    def reuse(self, prompt: Sequence[int]) -> int:
        """Go back to what a prompt shares with the tokens that are held, exactly.

        Returns:
            N, less than the prompt's length, since its last token gives the logits; 0 where the caches cannot go back
            as far as they would have to.
        """
        shared = _common(self.tokens, prompt[:-1])
        self._rows.allocate(1)
        if shared < len(self.tokens):
            shared = self._go_back([max(min(shared, len(prompt) - self._tail), 0), shared])
        elif self._is_broken():
            shared = 0
        if not shared:
            self.clear()
        self._rows.stop_recording()
        del self.tokens[shared:]
        return shared

    def _go_back(self, lengths: Sequence[int]) -> int:
        """Go back to the first of some lengths that can be gone back to exactly; 0 for none of them."""
        for length in lengths:
            if self._is_broken():
                return 0
            with contextlib.suppress(CacheRollbackError):
                self._rows.return_to([length])
                return length
        return 0

    def _is_broken(self) -> bool:
        """Whether the latest step was interrupted while it evicted."""
        try:
            self._rows.check_whole()
        except CacheRollbackError:
            return True
        return False

    def clear(self) -> None:
        """Forget every token."""
        self._rows.clear()
        self.tokens.clear()

    def widths(self, count: int) -> list[int]:
        """The steps that ``count`` tokens of a prompt are run in; what the last one evicts can be saved."""
        window = self._rows.narrowest_window
        full, rest = divmod(count, self._chunk)
        widths = [self._chunk] * full + [rest] * (rest > 0)
        tail = min(self._tail, count)
        if tail > widths[-1]:
            widths[-2] -= tail - widths[-1]
            widths[-1] = tail
        elif window and widths[-1] > window:
            widths[-1:] = [widths[-1] - tail, tail]
        return [width for width in widths if width]

    def mark(self, prompt: int) -> None:
        """Save what is evicted from here on, so that a later prompt can go back to here, up to ``prompt`` tokens."""
        self._rows.mark([prompt])

    def step(self, tokens: Sequence[int], cancellation: Cancellation) -> np.ndarray:
        """Append tokens, and give the logits ``[V]`` behind the last of them.

        Raises:
            CancelledError: The call was cancelled; nothing was appended.
        """
        cancellation.check()  # before anything is prepared that an ended step would leave unfinished
        rows = self._rows
        step = Step(np.array([tokens], np.int64), list(rows.lengths), [len(tokens)])
        rows.prepare(step.after)
        logits_1KV = self._session.step(step, rows.buffers, cancellation)[0]
        rows.advance(step.after)
        self.tokens += tokens
        return _as_floats(logits_1KV[0, -1], self._session.output_dtype)


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    size = min(len(held), len(prompt))
    differ = np.flatnonzero(np.array(held[:size], np.int64) != np.array(prompt[:size], np.int64))
    return int(differ[0]) if len(differ) else size


def _as_floats(array: Any, dtype: str) -> np.ndarray:
    """An array of the host's memory, where bfloat16 is held as its bits, as numbers."""
    if dtype != "bfloat16":
        return np.asarray(array)
    return (array.astype(np.uint32) << 16).view(np.float32)
