"""Connections: one that sends no request is closed, and what is not HTTP is refused in OpenAI's form."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import ApiError

__all__ = ["TimedProtocol"]

REQUEST_SECONDS = 10
"""That a client has to send a request's headers."""


class TimedProtocol(H11Protocol):
    """Uvicorn's protocol, which has no limit of its own for headers that come slowly."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """As uvicorn's."""
        super().connection_made(transport)
        self._wait()

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
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = self.loop.call_later(REQUEST_SECONDS, self._close_unless_begun, self.cycle)

    def _close_unless_begun(self, before: Any) -> None:
        if self.cycle is before:
            self.transport.close()
