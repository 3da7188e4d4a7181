"""A process that does for others what may not end, or may fill the memory: it has limits, and is ended beyond them.

The alternative would be a thread with a clock: Python cannot interrupt a native call, and cannot give back its memory.
A process can be ended. It costs the start of one, a tenth of a second, once.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from exaone_export.errors import ProcessStartError
from exaone_export.terminal_text import last_line

__all__ = ["LimitedProcess", "ProcessEndedError"]

_PATIENCE = 600  # Seconds of wall time: the worker limits the processor's, so only a stopped machine needs it.
_MOST_SAID = 4096


class ProcessEndedError(Exception):
    """A process that had started ended, or was ended, before it had answered.

    Args:
        status: Its exit status, below 0 for a signal; None where it did not answer for ten minutes.
        said: The last line that it has written to stderr, in brackets behind a space; empty where there is none.
    """

    def __init__(self, status: int | None, said: str) -> None:
        super().__init__(f"the process ended with status {status}{said}")
        self.status, self.said = status, said


class LimitedProcess:
    """Runs a worker's file; the process is started with the first request, and again after it was ended.

    The worker sets its own limits, and then writes a line of JSON. A request is a line of JSON on its stdin, an answer
    a line on its stdout, a JSON object. Behind an answer with the key ``last`` it is ended.

    Threads may share it: their requests take turns.

    Args:
        worker: The file.
        arguments: Of its command line, before the folders of ``modules``.
        modules: What it imports beside the standard library.
        most_bytes: Of an answer.
        task: What it does, for errors, such as "applies chat templates".
    """

    def __init__(
        self, worker: Path, arguments: Sequence[object], modules: Sequence[str], *, most_bytes: int, task: str
    ) -> None:
        self._worker, self._arguments, self._modules = worker, [str(each) for each in arguments], modules
        self._most_bytes, self._task, self._lock = most_bytes, task, threading.Lock()
        self._buffer, self._has_begun = bytearray(), False
        self._errors: IO[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        _opened.add(self)

    def start(self) -> None:
        """Begin to start the process, without waiting for it."""
        with self._lock:
            self._started()

    def ask(self, request: str) -> dict[str, Any]:
        """The answer to a request, JSON in a line.

        Raises:
            ProcessEndedError: The process did not answer it; the next request gets another one.
            ProcessStartError: The process did not start.
        """
        with self._lock:
            try:
                answer = self._ask(request.encode() + b"\n")
            except BaseException:
                self._end()  # its answer would be taken for the next request's
                raise
            if answer.pop("last", None):
                self._end()
            return answer

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a child that was forked: leave the process and its pipes to the parent."""
        self._lock, self._buffer, self.process = threading.Lock(), bytearray(), None

    def _ask(self, request: bytes) -> dict[str, Any]:
        process, deadline = self._started(), time.monotonic() + _PATIENCE
        assert process.stdin is not None
        try:
            if not self._has_begun:
                self._read(process, deadline)
                self._has_begun = True
            _write(process.stdin.fileno(), request, deadline)
            answer: dict[str, Any] = json.loads(self._read(process, deadline))
        except (TimeoutError, EOFError, BrokenPipeError) as cause:
            process.kill()  # Does nothing where it has ended.
            status = process.wait()
            said = self._said()
            if not self._has_begun:
                raise ProcessStartError(
                    f"the process that {self._task} did not start{said}; run: {sys.executable} -c 'import "
                    f"{self._modules[0]}', and fix what it reports."
                ) from cause
            raise ProcessEndedError(None if isinstance(cause, TimeoutError) else status, said) from cause
        return answer

    def _said(self) -> str:
        if self._errors is None:
            return ""
        size = os.fstat(self._errors.fileno()).st_size
        data = os.pread(self._errors.fileno(), _MOST_SAID, max(size - _MOST_SAID, 0))
        line = last_line(data.decode(errors="replace"))
        return f" (it wrote: {line})" if line else ""

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self._end()
        self._errors = os.fdopen(os.memfd_create("errors"), "rb", buffering=0)  # an unread pipe would fill up
        self.process = subprocess.Popen(
            # Isolated (-I), files beside the worker are not imported as libraries; without site (-S) it starts sooner.
            [sys.executable, "-I", "-S", self._worker, *self._arguments, *_folders(self._modules)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is handled by the caller
        )
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        self._has_begun = False
        return self.process

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        while (end := self._buffer.find(b"\n")) < 0:
            _wait(process.stdout.fileno(), select.POLLIN, deadline)
            piece = os.read(process.stdout.fileno(), 1 << 20)
            if not piece or len(self._buffer) > self._most_bytes:
                raise EOFError
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _end(self) -> None:
        process, self.process = self.process, None
        self._buffer.clear()
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


_opened: weakref.WeakSet[LimitedProcess] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for each in tuple(_opened):
        each.close()


def _forget_all() -> None:
    for each in tuple(_opened):
        each.forget()


os.register_at_fork(after_in_child=_forget_all)


def _folders(modules: Sequence[str]) -> list[str]:
    """Where modules are; none of those that are not installed, which the process then says."""
    found = [importlib.util.find_spec(name) for name in modules]
    folders = [str(Path(spec.origin).parents[1]) for spec in found if spec is not None and spec.origin]
    return list(dict.fromkeys(folders))


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()  # `select.select` takes no descriptor from 1024 on, which a busy server has
    poll.register(descriptor, event)
    if not poll.poll(1e3 * max(deadline - time.monotonic(), 0)):
        raise TimeoutError


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        _wait(descriptor, select.POLLOUT, deadline)
        view = view[os.write(descriptor, view) :]
