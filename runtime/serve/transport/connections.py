"""Connections: how many there may be, which are closed for others, and what is not HTTP is refused in OpenAI's form."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import ApiError

__all__ = ["KEEP_ALIVE_SECONDS", "MOST_CONNECTIONS", "TimedProtocol", "connection_limit"]

REQUEST_SECONDS = 10
"""That a client has to send the headers of a connection's first request."""

KEEP_ALIVE_SECONDS = 75
"""That a connection may wait for its next request: longer than proxies and clients keep one, so that it is they who
close it, and none of their requests meets a connection that was just closed."""

READ_SECONDS = 60
"""In which a client has to read some of what it was sent, which is held in memory."""

MOST_CONNECTIONS = 1024
_OTHER_FILES = 32
"""Files that the process has open beside connections."""


def connection_limit() -> int:
    """How many connections there may be, for which the limit of open files is raised as far as the process may.

    It is half of what the limit has room for: as many may be accepted before those in excess are closed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, max(soft - _OTHER_FILES, 2) // 2)
    )


class TimedProtocol(H11Protocol):
    """Uvicorn's protocol, which has no limit of its own for clients that write or read slowly, nor for idle ones.

    There are as many connections as may wait to be accepted, `uvicorn.Config.backlog`.
    """

    _due: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _since = 0.0
    """When it began to wait for a request, by the loop's clock."""

    def connection_made(self, transport: Any) -> None:
        """As uvicorn's; where there are too many connections, the one that is idle for the longest time is closed."""
        super().connection_made(transport)
        self._wait(REQUEST_SECONDS)
        if len(self.connections) > self.config.backlog:
            self._make_room()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _make_room(self) -> None:
        others = (each for each in self.connections if isinstance(each, TimedProtocol) and each is not self)
        idle = [each for each in others if each._is_idle and not each.transport.is_closing()]
        if idle:
            min(idle, key=lambda each: each._since).transport.close()

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, with an error of the server's form."""
        response = ApiError(400, "the request is not valid HTTP/1.1; correct it.", code="invalid_http").response
        headers = [*response.raw_headers, (b"connection", b"close")]
        events = (
            h11.Response(status_code=400, headers=headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        )
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # otherwise a response has begun
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def on_response_complete(self) -> None:
        """As uvicorn's."""
        super().on_response_complete()
        self._wait(KEEP_ALIVE_SECONDS)

    def pause_writing(self) -> None:
        """As uvicorn's, while the client does not read."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """As uvicorn's, once it has read."""
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        for timer in (self._due, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        if self._due is not None:
            self._due.cancel()
        self._since = self.loop.time()
        self._due = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._is_idle:  # a pipelined request begins before this timer does
            self.transport.close()

    def _expect_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(READ_SECONDS, self._abort_unless_read, unread)

    def _abort_unless_read(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._expect_reading()  # a large answer takes a slow client longer
        else:
            self.transport.abort()
