"""Work in another process that is killed, or meets a bad disk, at a chosen call that changes the disk."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CHANGES = ("write", "pwrite", "ftruncate", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")
"""Functions of `os` that change what is on a disk, or wait for it."""

Change = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]


@contextmanager
def watched(change: Change) -> Iterator[None]:
    """Put ``change(name, function, arguments)`` in the place of every call that changes the disk."""
    kept = {name: getattr(os, name) for name in CHANGES}

    def instead(name: str) -> Callable[..., Any]:
        return lambda *arguments, **keywords: change(name, lambda *a: kept[name](*a, **keywords), arguments)

    for name in CHANGES:
        setattr(os, name, instead(name))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(os, name, function)


def fork(work: Callable[[], Any]) -> int:
    """Start it in a copy of this process; gives the process id. Its exit status is 1 where an exception ends it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def forked_while_held(lock: Any, work: Callable[[], Any]) -> int:
    """The exit status of `work` in a copy of this process, forked while another thread has a lock; -9 if it waits."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = fork(work)
    over.set()
    holder.join()
    deadline = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def count_changes(work: Callable[[], Any]) -> int:
    """How often a run that is left alone changes the disk."""
    seen = 0

    def count(_: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        nonlocal seen
        seen += 1
        return function(*arguments)

    with watched(count):
        work()
    return seen


def kill_at(event: int, work: Callable[[], Any], *, torn: bool = False) -> bool:
    """Run it in another process, which is killed at its so many-th change, or in the middle of it if that is a write.

    Returns:
        Whether it was killed; it may have come to its end before.
    """
    seen = 0

    def count(name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        nonlocal seen
        seen += 1
        if seen == event:
            if torn and name in ("write", "pwrite"):
                descriptor, data, *rest = arguments
                function(descriptor, data[: len(data) // 2], *rest)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    def disturbed() -> None:
        with watched(count):
            work()

    _, status = os.waitpid(fork(disturbed), 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert status == 0
    return False


@contextmanager
def failing_at(event: int, code: int) -> Iterator[None]:
    """The so many-th change, and only that one, fails with an error of the disk."""
    seen = 0

    def fail(_: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        nonlocal seen
        seen += 1
        if seen == event:
            raise OSError(code, os.strerror(code))
        return function(*arguments)

    with watched(fail):
        yield
