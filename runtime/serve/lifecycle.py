"""The server's life: ready, then stopping, when running requests finish and no other begins."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from .answering import Answers
from .errors import ApiError
from .transport.connections import MOST_CONNECTIONS

__all__ = ["GracefulServer", "Lifecycle"]

_FORCED_SECONDS = 2
"""For a response to be written once its answer was ended."""


class Lifecycle:
    """What runs, and until when.

    Args:
        request_seconds: The longest time that a request may take.

    Attributes:
        stopping: Whether new requests are refused.
        in_flight: Requests that are not answered yet.
        most_in_flight: Those that may be; more are refused.
    """

    def __init__(self, request_seconds: float) -> None:
        self._seconds, self._answers = request_seconds, set[Answers]()
        self.stopping, self.in_flight, self.most_in_flight = False, 0, MOST_CONNECTIONS

    @contextmanager
    def watch(self, answers: Answers) -> Iterator[None]:
        """End answers when their time is over, or when the server cannot wait any longer."""
        error = ApiError(
            504,
            f"the request took longer than {self._seconds:g} seconds; ask for fewer tokens.",
            code="request_timeout",
            headers={"x-should-retry": "false"},
        )
        timer = asyncio.get_running_loop().call_later(self._seconds, answers.end, error)
        self._answers.add(answers)
        try:
            yield
        finally:
            timer.cancel()
            self._answers.discard(answers)
            answers.close()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new requests, let running ones finish, and end them when the time is over."""
        self.stopping = True
        await self._until_idle(grace_seconds)
        for answers in tuple(self._answers):
            answers.end(ApiError(503, "the server is stopping; try again later.", code="stopping"))
        await self._until_idle(_FORCED_SECONDS)

    async def _until_idle(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.in_flight and loop.time() < end:
            await asyncio.sleep(0.02)


class GracefulServer(uvicorn.Server):
    """Uvicorn's server, which keeps answering, with 503, until running requests have finished.

    Args:
        config: Uvicorn's.
        lifecycle: Of the application.
        grace_seconds: Running requests have these to finish; a second signal ends them.
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Of a signal: stop gracefully; of a second one, at once."""
        if self._loop is None or self._lifecycle.stopping:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
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
