"""Connections: one that sends no request is closed."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

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
