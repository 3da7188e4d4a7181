"""Around every request: it is counted, timed and logged, and refused while the server stops."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import METHOD, ApiError, error_of
from ..lifecycle import Lifecycle
from ..logs import FIELDS
from ..metrics import Metrics

__all__ = ["NOTES", "Observer"]

NOTES = "exaone_export.notes"
"""The key of a request's scope with what the log shall say of it."""

_log = logging.getLogger(__name__)
_ALWAYS = ("/health", "/ready", "/metrics")
"""Paths that are answered while the server stops, and however busy it is."""

_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)


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
        begun, status, name = time.perf_counter(), 499, _name_of(scope)
        notes: dict[str, object] = {}
        method = scope["method"]
        # The HTTP server leaves the body of an answer to HEAD out by the method that it has seen itself.
        inner = {**scope, NOTES: notes, METHOD: method, "method": "GET" if method == "HEAD" else method}
        is_begun = False

        async def note(message: Message) -> None:
            nonlocal status, is_begun
            if message["type"] == "http.response.start":
                status, is_begun = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        self._lifecycle.in_flight += 1
        try:
            if (error := self._refusal(scope["path"])) is not None:
                await error.response(scope, receive, note)
            else:
                await self._app(inner, receive, note)
        except Exception as cause:
            status = 500
            if is_begun:
                raise
            await error_of(cause).response(scope, receive, note)
        finally:
            self._lifecycle.in_flight -= 1
            seconds = time.perf_counter() - begun
            route = inner.get("route")
            path = getattr(route, "path", "other")
            method = method if route is not None else "other"
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

    def _refusal(self, path: str) -> ApiError | None:
        """Of a request that is not looked at."""
        lifecycle = self._lifecycle
        if path in _ALWAYS:
            return None
        if lifecycle.stopping:
            return ApiError(503, "the server is stopping; try again later.", code="stopping")
        if lifecycle.in_flight > lifecycle.most_in_flight:
            message = f"{lifecycle.most_in_flight} requests are being answered, the maximum; try again later."
            return ApiError(503, message, code="server_busy", headers={"retry-after": "1"})
        return None


def _name_of(scope: Scope) -> str:
    """What the client or a proxy calls a request, where that can be logged; else a name of its own."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _NAME.fullmatch(given) else uuid.uuid4().hex
