"""Grammars, tried under limits: one that takes too long, or that llguidance dies of, ends in an error.

Its own limits do not hold everywhere, such as for the intersection of several patterns, and a thread that compiles
cannot be ended. A process can.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

from exaone_export.errors import GrammarError

__all__ = ["Trials", "shared"]

MILLISECONDS = 600
"""Of the processor's time that a grammar may take."""

_MEMORY_BYTES = 1 << 30
_WORKER = Path(__file__).with_name("trial_worker.py")


class Trials:
    """A process that compiles grammars; it is started with the first one, and again after it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start the process, without waiting for it."""
        with self._lock:
            self._started()

    def find_error(self, grammar: str, *, name: str) -> str | None:
        """What llguidance says is wrong with a grammar, or None.

        Args:
            grammar: In llguidance's dialect of Lark.
            name: Of what it was made of, for errors.

        Raises:
            GrammarError: It takes too long, or too much memory.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(grammar).encode() + b"\n")
                process.stdin.flush()
                answer = process.stdout.readline()
            except BrokenPipeError:
                answer = b""
            except BaseException:
                process.kill()  # its answer would be taken for the next one's
                raise
            if not answer:
                timed_out = process.wait() == -signal.SIGPROF
                limit = f"{MILLISECONDS} ms of time" if timed_out else f"{_MEMORY_BYTES >> 20} MiB of memory"
                raise GrammarError(f"{name} takes more than {limit} to compile; simplify it.")
            error: str | None = json.loads(answer)
            return error

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            spec = importlib.util.find_spec("llguidance")
            folder = str(Path(spec.origin).parents[1]) if spec is not None and spec.origin else ""
            # Isolated (-I), files beside the worker are not imported as libraries; without site (-S) it starts sooner.
            command = [sys.executable, "-I", "-S", str(_WORKER), str(MILLISECONDS), str(_MEMORY_BYTES), folder]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is handled by the caller
            )
        return self._process


_shared = Trials()


def shared() -> Trials:
    """The process that all grammars of this program share."""
    return _shared
