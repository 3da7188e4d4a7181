"""Ctrl-C that ends an answer and not the program."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["first_interrupt"]


@contextmanager
def first_interrupt(cancel: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C inside call ``cancel``; the next one raises KeyboardInterrupt, as ever.

    Where Ctrl-C does something else already, such as nothing in a background job, it goes on to.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def handle(_signal: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cancel()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
