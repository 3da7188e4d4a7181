"""Grammars, tried under limits: one that takes too long, or that llguidance dies of, ends in an error.

llguidance's own limits do not hold everywhere, such as for the intersection of several patterns.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from exaone_export.errors import GrammarError

from ..limited_process import LimitedProcess, ProcessEndedError

__all__ = ["Trials", "shared"]

MILLISECONDS = 600
"""Of the processor's time that a grammar may take."""

_MEMORY_BYTES = 1 << 30
_MOST_BYTES = 1 << 20
_WORKER = Path(__file__).with_name("trial_worker.py")


class Trials:
    """A process that compiles grammars; it is started with the first one, and again after it was ended."""

    def __init__(self) -> None:
        self._worker = LimitedProcess(
            _WORKER, (MILLISECONDS, _MEMORY_BYTES), ("llguidance",), most_bytes=_MOST_BYTES, task="tries grammars"
        )

    def start(self) -> None:
        """Begin to start the process, without waiting for it."""
        self._worker.start()

    def find_error(self, grammar: str, *, name: str) -> str | None:
        """What llguidance says is wrong with a grammar, or None.

        Args:
            grammar: In llguidance's dialect of Lark.
            name: Of what it was made of, for errors.

        Raises:
            GrammarError: It takes too long, or too much memory.
            ProcessStartError: It cannot be tried here.
        """
        try:
            error: str | None = self._worker.ask(json.dumps(grammar))["error"]
        except ProcessEndedError as ended:
            raise GrammarError(f"{name} {_why(ended)}.") from ended
        return error


def _why(ended: ProcessEndedError) -> str:
    if ended.status in (None, -signal.SIGPROF):
        return f"takes more than {MILLISECONDS} ms of time to compile; simplify it"
    return f"crashed the compiler, probably by using more than {_MEMORY_BYTES >> 20} MiB{ended.said}; simplify it"


_shared = Trials()


def shared() -> Trials:
    """The process that all grammars of this program share."""
    return _shared
