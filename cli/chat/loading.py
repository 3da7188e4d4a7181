"""Loads a conversation's model in a thread, so that the first message can be typed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Loading"]

_T = TypeVar("_T")


class Loading(Generic[_T]):
    """Calls ``load`` in a thread, from the beginning on."""

    def __init__(self, load: Callable[[], _T]) -> None:
        self._load, self._found, self._ended = load, list[_T](), threading.Event()
        self._began = time.monotonic()
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name="exaone-loading", daemon=True).start()

    def _run(self) -> None:
        try:
            self._found.append(self._load())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self.error = error
        finally:
            self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether it is loaded, or failed."""
        return self._ended.is_set()

    @property
    def seconds(self) -> float:
        """How long it takes so far."""
        return time.monotonic() - self._began

    def wait(self, while_waiting: Callable[[], None] = lambda: None) -> _T:
        """What was loaded; ``while_waiting`` is called twice a second.

        Raises:
            BaseException: What ``load`` has raised.
        """
        while not self._ended.wait(timeout=0.5):
            while_waiting()
        if self.error is not None:
            raise self.error
        return self._found[0]
