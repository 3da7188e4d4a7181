"""`Errand`: what the engine's thread is to do beside answering, while the caller waits."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ..cancellation import Cancellation
from ..requests import LONGEST_SLEEP
from ..slots.slot import Slot
from ..slots.slots import Slots

__all__ = ["Errand"]

_T = TypeVar("_T")


class Errand(Generic[_T]):
    """Work in one slot.

    Args:
        work: What is done.
        prompt: In the slot that this prompt is best run in; None for that of the latest conversation.

    Attributes:
        cancellation: Ends it.
    """

    def __init__(self, work: Callable[[Slot, Cancellation], _T], prompt: Sequence[int] | None) -> None:
        self.cancellation = Cancellation()
        self._work, self._prompt = work, prompt
        self._done: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def run(self, slots: Slots) -> None:
        """Do it."""
        try:
            self.cancellation.check()
            slot = slots.latest() if self._prompt is None else slots.take(self._prompt)
            result = self._work(slot, self.cancellation)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for it
            self.put(error)
        else:
            self._done.set_result(result)

    def put(self, event: object) -> None:
        """Why there is no result: an error, or that it was cancelled."""
        try:
            if isinstance(event, BaseException):
                raise event
            self.cancellation.check()
        except BaseException as error:  # noqa: BLE001 - as above
            self._done.set_exception(error)

    def wait(self) -> _T:
        """What it gives; an interruption cancels it, and is raised when it has ended."""
        try:
            # A signal that comes just before the thread sleeps is seen when it wakes up.
            while not concurrent.futures.wait([self._done], timeout=LONGEST_SLEEP).done:
                pass
            return self._done.result()
        except BaseException:
            self.cancellation.cancel()
            concurrent.futures.wait([self._done])
            raise
