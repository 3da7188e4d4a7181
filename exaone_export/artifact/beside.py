"""Work in a thread of its own, beside other work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

__all__ = ["beside"]


class _AbandonedError(Exception):
    """Nobody waits for the work any more."""


@contextlib.contextmanager
def beside(work: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """Do ``work`` while the block runs, and wait for it at the block's end.

    Args:
        work: Is given a function to call now and then, which ends it where the block was interrupted.

    Raises:
        Exception: What the work has raised, in place of what the block has raised, which may come of it.
    """
    failed, abandoned = list[BaseException](), threading.Event()

    def check() -> None:
        if abandoned.is_set():
            raise _AbandonedError

    def run() -> None:
        try:
            work(check)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed.append(error)

    thread = threading.Thread(target=run, name="exaone-beside", daemon=True)
    thread.start()
    try:
        yield
        thread.join()
    except Exception:
        thread.join()
        if failed:
            raise failed[0] from None
        raise
    except BaseException:
        abandoned.set()
        thread.join()
        raise
    if failed:
        raise failed[0]
