"""Ctrl-C while the model speaks: the turn ends, and the conversation goes on."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from exaone_export.runtime.runner.turn import Turn

__all__ = ["Interrupts"]


class Interrupts:
    """Within it, Ctrl-C cancels the turn that is watched, or the next one; `raising` lets it raise as usual.

    Attributes:
        seen: Whether it was pressed.
    """

    def __init__(self) -> None:
        self.seen = False
        self._turn: Turn | None = None
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def watch(self, turn: Turn) -> None:
        """Cancel this turn from now on."""
        self._turn = turn
        if self.seen:
            turn.cancel()

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Around work other than a turn, such as a tool's function: let Ctrl-C raise KeyboardInterrupt in it."""
        signal.signal(signal.SIGINT, self._before)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.seen:  # a turn that is being cancelled holds a lock, and this runs in the same thread
            return
        self.seen = True
        if self._turn is not None:
            self._turn.cancel()
