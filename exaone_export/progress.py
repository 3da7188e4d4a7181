"""How long work reports to its caller: how far it is, and what a person should know.

Every function of this package that takes minutes has ``progress`` and ``notice`` (or ``warn``) arguments of these
types. A call comes from whichever thread does the work, one at a time; an exception that it raises ends the work.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Notice", "Progress", "Step", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how many of its units are done, and how many there are."""

Notice = Callable[[str], None]
"""Called with one sentence."""


def silent(_step: str, _done: int, _total: int) -> None:
    """A `Progress` that reports nothing."""


class Step:
    """One step of the work, counted; a call advances it.

    Args:
        progress: Told after every call; None for nobody.
        name: Of the step.
        total: Its units.
        done: Those that an earlier run has done.
    """

    def __init__(self, progress: Progress | None, name: str, total: int, done: int = 0) -> None:
        self._progress, self._name, self._total, self._done = progress or silent, name, total, done

    def __call__(self, more: int = 1) -> None:
        """Count ``more`` units as done and report; 0 reports alone."""
        self._done += more
        self._progress(self._name, self._done, self._total)
