"""The server's life: ready, then stopping, when running requests finish and no other begins."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar

import uvicorn

from .errors import ApiError
from .transport.connections import MOST_CONNECTIONS

__all__ = ["GracefulServer", "Lifecycle"]

_FORCED_SECONDS = 2
"""For a response to be written once its answer was ended."""

_T = TypeVar("_T")


class _Work(Protocol):
    """What can be ended, such as `.answering.Answers`."""

    def end(self, error: ApiError) -> None:
        """End it, and let whoever waits for it raise the error."""

    def close(self) -> None:
        """End it."""


class _Task:
    def __init__(self, task: asyncio.Future[Any]) -> None:
        self._task = task
        self.error: ApiError | None = None

    def end(self, error: ApiError) -> None:
        self.error = self.error or error
        self._task.cancel()

    def close(self) -> None:
        self._task.cancel()


class Lifecycle:
    """What runs, and until when.

    Args:
        request_seconds: The longest time that a request may take.

    Attributes:
        stopping: Whether new requests are refused.
        hurrying: Whether running ones have no time any more.
        in_flight: Requests that are not answered yet.
        most_in_flight: Those that may be; more are refused.
    """

    def __init__(self, request_seconds: float) -> None:
        self._seconds, self._running = request_seconds, set[_Work]()
        self.stopping = self.hurrying = False
        self.in_flight, self.most_in_flight = 0, MOST_CONNECTIONS
        self._over: ApiError | None = None

    def deadline(self) -> float:
        """By the loop's clock, until when a request that comes now may take."""
        return asyncio.get_running_loop().time() + self._seconds

    @contextmanager
    def watch(self, work: _Work, deadline: float | None = None) -> Iterator[None]:
        """End work when its time is over, or when the server cannot wait any longer.

        Args:
            work: What is done.
            deadline: Of its request (default: that of one that comes now).
        """
        error = ApiError(
            504,
            f"the request took longer than {self._seconds:g} seconds; ask for less at a time.",
            code="request_timeout",
            headers={"x-should-retry": "false"},
        )
        until = self.deadline() if deadline is None else deadline
        timer = asyncio.get_running_loop().call_at(until, work.end, error)
        self._running.add(work)
        if self._over is not None:  # what was prepared while all others were ended
            work.end(self._over)
        try:
            yield
        finally:
            timer.cancel()
            self._running.discard(work)
            work.close()

    async def run(self, work: Coroutine[Any, Any, _T], deadline: float | None = None) -> _T:
        """Do something that is ended as `watch` ends it.

        Args:
            work: What is done.
            deadline: As of `watch`.

        Raises:
            ApiError: It was.
        """
        task = asyncio.ensure_future(work)
        watched = _Task(task)
        with self.watch(watched, deadline):
            try:
                return await task
            except asyncio.CancelledError:
                if watched.error is None:
                    raise
                raise watched.error from None

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new requests, let running ones finish, and end them when the time is over."""
        self.stopping = True
        await self._until_idle(grace_seconds, may_hurry=True)
        self._over = ApiError(503, "the server is stopping; try again later.", code="stopping")
        for work in tuple(self._running):
            work.end(self._over)
        await self._until_idle(_FORCED_SECONDS)

    async def _until_idle(self, seconds: float, *, may_hurry: bool = False) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.in_flight and loop.time() < end and not (may_hurry and self.hurrying):
            await asyncio.sleep(0.02)


class GracefulServer(uvicorn.Server):
    """Uvicorn's server, which keeps answering, with 503, until running requests have finished.

    Args:
        config: Uvicorn's.
        lifecycle: Of the application.
        grace_seconds: Running requests have these to finish; a second signal ends them, and a third one the process.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, grace_seconds: float) -> None:
        super().__init__(config)
        self._lifecycle, self._grace = lifecycle, grace_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's; a terminal that is closed stops the server like SIGTERM, unless that was switched off."""
        with super().capture_signals():
            is_main = threading.current_thread() is threading.main_thread()  # the only one that may handle signals
            if not is_main or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
                yield
                return
            signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Of a signal: stop gracefully; of a second one, within a step; of a third one, at once."""
        if self._loop is None or self._lifecycle.hurrying:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
        elif self._lifecycle.stopping:
            self._lifecycle.hurrying = True
        else:
            self._lifecycle.stopping = True
            self._loop.call_soon_threadsafe(self._begin_draining)

    def _begin_draining(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        try:
            await self._lifecycle.drain(self._grace)
        finally:
            self.should_exit = True
