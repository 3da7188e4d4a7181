"""`Slot`: one row of caches and the tokens that it holds, from which the next prompt goes on as far as it is the same.

Legend: K positions whose logits are wanted, V vocabulary, N tokens that a prompt shares with those that are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from exaone_export.errors import CacheRollbackError, KeptPromptError
from exaone_export.progress import Progress

from ..buffers import BufferPool, CacheBuffers
from ..cancellation import Cancellation
from ..kept.prompt_file import load_kept, save_kept
from ..row_caches import RowCaches
from ..session import Session
from .prefixes import common
from .steps import run_step

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
        buffers: Its row of them.
        row: Which row that is.
        chunk: Tokens of a prompt that one step takes at most.

    Attributes:
        tokens: Those that the caches hold.
        row: As given, until it changes places.
        used: The larger, the later it was used; 0 for never.
    """

    def __init__(self, session: Session, buffers: CacheBuffers, row: int, chunk: int) -> None:
        self._session, self.row, self.used = session, row, 0
        self._rows = RowCaches(BufferPool(session.geometry), buffers)
        self._chunk = min(chunk, session.longest_step or chunk)
        self._tail = min(_TAIL, self._rows.narrowest_window)
        self.tokens: list[int] = []

    def reusable(self, prompt: Sequence[int]) -> int:
        """N, less than the prompt's length, since its last token gives the logits; 0 where nothing can be reused."""
        if self._is_broken():
            return 0
        shared = common(self.tokens, prompt[:-1])
        if shared == len(self.tokens):
            return shared
        lengths = (max(min(shared, len(prompt) - self._tail), 0), shared)
        return next((length for length in lengths if self._rows.can_return_to([length])), 0)

    def reuse(self, prompt: Sequence[int]) -> int:
        """Go back to what a prompt shares with the tokens that are held, exactly, and give `reusable`."""
        shared = self.reusable(prompt)
        if shared:
            self._rows.return_to([shared])
        else:
            self.clear()
        self._rows.stop_recording()
        del self.tokens[shared:]
        return shared

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

    def discard(self) -> None:
        """Forget every token, and whatever numbers a failure may have left, where masked rows are multiplied by 0."""
        self.clear()
        if self._session.geometry.finite_rows:
            self._rows.buffers.clear()

    def save(self, path: str | Path, artifact: str, cancellation: Cancellation) -> int:
        """Write what is held to a file, and give how many tokens that is; see `..kept.prompt_file.save_kept`.

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
        pool = BufferPool(self._session.geometry)
        tokens, rows = load_kept(path, pool, self._session.vocab_size, artifact, cancellation.check)
        self.clear()
        self._rows.restore(rows.state())
        for target, source in zip(self._rows.contents(), rows.contents(), strict=True):
            target[:] = source
        self.tokens = tokens
        return len(tokens)

    def prefill(self, prompt: Sequence[int], cancellation: Cancellation, progress: Progress) -> np.ndarray:
        """Append what a prompt has beyond what `reuse` has left, and give the logits ``[1, V]`` behind it.

        Raises:
            CancelledError: The call was cancelled; what was appended before stays.
        """
        *_, logits_KV = self.prefill_steps(prompt, cancellation, progress)
        return logits_KV

    def prefill_steps(
        self, prompt: Sequence[int], cancellation: Cancellation, progress: Progress
    ) -> Iterator[np.ndarray]:
        """`prefill`, a step at a time, each with its logits."""
        total, tokens = len(prompt), list(map(int, prompt[len(self.tokens) :]))
        progress(PREFILL, total - len(tokens), total)
        widths = self.widths(len(tokens))
        for index, width in enumerate(widths):
            if index == len(widths) - 1:
                self.mark(total)
            logits_KV = self.step(tokens[:width], cancellation)
            del tokens[:width]
            progress(PREFILL, total - len(tokens), total)
            yield logits_KV

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
        """Append tokens, and give the logits ``[K, V]`` behind the last ``judged`` of them; see `run_step`."""
        logits_1KV = run_step(self._session, [self], [tokens], self._rows.buffers, cancellation, judged)
        return logits_1KV[0]

    def prepare(self, width: int, *, is_trial: bool) -> None:
        """Before a step that appends so many tokens: save what it evicts, as far as that may be needed."""
        if is_trial:
            self._rows.begin_trial()
        self._rows.prepare([len(self.tokens) + width])

    def append(self, tokens: Sequence[int]) -> None:
        """After the step."""
        self.tokens += tokens
        self._rows.advance([len(self.tokens)])

    def exchange(self, other: Slot) -> None:
        """Change places: each row of the cache then holds what the other one held."""
        memory, layout = self._session.geometry.memory, self._session.geometry.layout
        one, two = self._rows.buffers, other._rows.buffers
        for index, layer in enumerate(layout.layers):
            mine, theirs = (layer.resident_rows(len(slot.tokens)) for slot in (self, other))
            for first, second in zip(one.layer(index), two.layer(index), strict=True):
                kept = memory.copy(second[:, :, :theirs])
                second[:, :, :mine] = first[:, :, :mine]
                first[:, :, :theirs] = kept
        self._rows.move_to(two)
        other._rows.move_to(one)
        self.row, other.row = other.row, self.row
