"""Around every request: it is counted, timed and logged, and refused while the server stops."""

from __future__ import annotations

import logging
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ApiError
from ..lifecycle import Lifecycle
from ..logs import FIELDS
from ..metrics import Metrics

__all__ = ["NOTES", "Observer"]

NOTES = "exaone_export.notes"
"""The key of a request's scope with what the log shall say of it."""

_log = logging.getLogger(__name__)
_WHILE_STOPPING = ("/health", "/ready", "/metrics")


class Observer:
    """Sees every request first.

    Args:
        app: What a request goes to.
        lifecycle: Of the application.
        metrics: Of the application.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, metrics: Metrics) -> None:
        self._app, self._lifecycle, self._metrics = app, lifecycle, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, name = time.perf_counter(), 499, uuid.uuid4().hex
        notes: dict[str, object] = {}
        scope[NOTES] = notes

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        self._lifecycle.in_flight += 1
        try:
            if self._lifecycle.stopping and scope["path"] not in _WHILE_STOPPING:
                error = ApiError(503, "the server is stopping; try again later.", code="stopping")
                await error.response(scope, receive, note)
            else:
                await self._app(scope, receive, note)
        finally:
            self._lifecycle.in_flight -= 1
            seconds = time.perf_counter() - begun
            route = scope.get("route")
            path = getattr(route, "path", "other")
            method = scope["method"] if route is not None else "other"
            self._metrics.note_request(method, path, status, seconds)
            fields = {
                "id": name,
                "method": method,
                "path": path,
                "status": status,
                "seconds": round(seconds, 4),
                **notes,
            }
            _log.info("request", extra={FIELDS: fields})
