"""Cancelling a call: between the steps of a prompt, and inside a step if the runtime can."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from exaone_export.errors import CancelledError


class Cancellation:
    """Whether a conversation's call is to end; any thread may request it at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = False
        self._end_step: Callable[[], None] | None = None

    def cancel(self) -> None:
        """End the step that runs, where the runtime can, and let no further one begin."""
        with self._lock:
            self._requested = True
            if self._end_step is not None:
                self._end_step()

    @property
    def is_requested(self) -> bool:
        """Whether it was."""
        return self._requested

    def clear(self) -> None:
        """Let steps begin again."""
        self._requested = False

    def check(self) -> None:
        """Raise `CancelledError` if the call was cancelled."""
        if self._requested:
            raise CancelledError(
                "the call was cancelled; start again with a new cache, or with this one after reset()."
            )

    @contextlib.contextmanager
    def step(self, end: Callable[[], None]) -> Iterator[None]:
        """A step that ``end`` can end early.

        Raises:
            CancelledError: The call was cancelled before the step or during it.
        """
        with self._lock:
            self.check()
            self._end_step = end
        try:
            yield
        except Exception:
            self.check()  # the runtime reports a step that was ended as a failure
            raise
        finally:
            with self._lock:
                self._end_step = None


def run_interruptibly(run: Callable[[], None], end: Callable[[], None]) -> None:
    """Call ``run`` in a thread, and ``end`` it when this one is interrupted.

    Python handles a signal only between two of its own instructions, so that Ctrl-C during a native call of a minute
    would be seen after that minute.

    Args:
        run: The native call.
        end: Makes it return soon, or at once where it has not begun.

    Raises:
        BaseException: What ``run`` has raised, or the interruption, once ``run`` has returned.
    """
    failure: list[BaseException] = []
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failure.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=work, daemon=True).start()
        done.wait()
    except BaseException:
        end()
        if begun.wait(timeout=1):  # the signal may have come before the thread did
            done.wait()
        raise
    if failure:
        raise failure[0]
