"""`Slot`: one row of caches and the tokens that it holds, from which the next prompt goes on as far as it is the same.

Legend: K positions whose logits are wanted, V vocabulary, N tokens that a prompt shares with those that are held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exaone_export.errors import CacheRollbackError, CancelledError, KeptPromptError
from exaone_export.progress import Progress

from .buffers import BufferPool
from .cancellation import Cancellation
from .kept.prompt_file import load_kept, save_kept
from .row_caches import RowCaches
from .session import Session
from .steps import Step

__all__ = ["PREFILL", "Slot"]

PREFILL = "prefill"
"""The name of the step that `Slot.prefill` tells the progress of; its units are tokens."""

_TAIL = 16
"""Tokens at a prompt's end that may be taken back whatever is evicted behind them: a chat template writes the place
where the model's turn begins in another way once that turn is past."""


class Slot:
    """The caches of one conversation.

    Args:
        session: Runs the graph.
        pool: Where buffers come from.
        chunk: Tokens of a prompt that one step takes at most.

    Attributes:
        tokens: Those that the caches hold.
    """

    def __init__(self, session: Session, pool: BufferPool, chunk: int) -> None:
        self._session, self._pool, self._rows = session, pool, RowCaches(pool)
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

    def save(self, path: str | Path, artifact: str, cancellation: Cancellation) -> int:
        """Write what is held to a file, and give how many tokens that is; see `.kept.prompt_file.save_kept`.

        Raises:
            CancelledError: The call was cancelled; the file is as it was.
            KeptPromptError: Nothing is held, or the file cannot be written.
        """
        if not self.tokens or self._is_broken():
            raise KeptPromptError(
                "the cache holds no prompt that could be saved; name one, or generate an answer first."
            )
        save_kept(path, self.tokens, self._rows, artifact, cancellation.check)
        return len(self.tokens)

    def load(self, path: str | Path, artifact: str, cancellation: Cancellation) -> int:
        """Hold what `save` has written instead, and give how many tokens that is.

        Raises:
            CancelledError: The call was cancelled; what was held is held still.
            KeptPromptError: The file cannot be read, or is not a kept prompt of this artifact; as above.
        """
        self.tokens, self._rows = load_kept(path, self._pool, self._session.vocab_size, artifact, cancellation.check)
        self._pool.clear()  # of the buffers that were replaced: one conversation's are enough
        return len(self.tokens)

    def prefill(self, prompt: Sequence[int], cancellation: Cancellation, progress: Progress) -> np.ndarray:
        """Append what a prompt has beyond what `reuse` has left, and give the logits ``[1, V]`` behind it.

        Raises:
            CancelledError: The call was cancelled; what was appended before stays.
        """
        total, tokens = len(prompt), list(map(int, prompt[len(self.tokens) :]))
        progress(PREFILL, total - len(tokens), total)
        widths = self.widths(len(tokens))
        for index, width in enumerate(widths):
            if index == len(widths) - 1:
                self.mark(total)
            logits_KV = self.step(tokens[:width], cancellation)
            del tokens[:width]
            progress(PREFILL, total - len(tokens), total)
        return logits_KV

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

    @property
    def most_guesses(self) -> int:
        """Tokens that a step may have beside its first one, and that `take_back` can take back."""
        return min(self._chunk, self._rows.narrowest_window or self._chunk) - 1

    def take_back(self, count: int) -> None:
        """Forget so many tokens of the latest step, exactly; all but its first, which is not a guess, may be."""
        if count:
            self._rows.return_to([len(self.tokens) - count])
            del self.tokens[-count:]
        self._rows.end_trial()

    def step(self, tokens: Sequence[int], cancellation: Cancellation, judged: int = 1) -> np.ndarray:
        """Append tokens, and give the logits ``[K, V]`` behind the last ``judged`` of them.

        Where that is more than one, all tokens but the first are guesses, and `take_back` follows.

        Raises:
            CancelledError: The call was cancelled; nothing was appended.
        """
        cancellation.check()  # before anything is prepared that an ended step would leave unfinished
        rows = self._rows
        step = Step(np.array([tokens], np.int64), list(rows.lengths), [len(tokens)], range(judged - 1, -1, -1))
        if judged > 1:
            rows.begin_trial()
        rows.prepare(step.after)
        try:
            logits_1KV = self._session.step(step, rows.buffers, cancellation)[0]
        except CancelledError:
            raise
        except BaseException:
            self.clear()  # what a step that failed has left is not known
            raise
        rows.advance(step.after)
        self.tokens += tokens
        return self._rows.geometry.memory.numbers(logits_1KV[0], self._session.output_dtype)


def _common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    size = min(len(held), len(prompt))
    differ = np.flatnonzero(np.array(held[:size], np.int64) != np.array(prompt[:size], np.int64))
    return int(differ[0]) if len(differ) else size
