"""The most bytes of a request's body, whether it tells its length or not."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ApiError

__all__ = ["BodyLimit"]


class BodyLimit:
    """Answers 413 to larger requests; Starlette's own limit answers in a form of its own.

    Args:
        app: What a request goes to.
        most: Bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"the request has more than {self._most} bytes; shorten it, or start the server with --max-body."
        error = ApiError(413, message, code="request_too_large", headers={"connection": "close"})
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise error
            return message

        if int(Headers(scope=scope).get("content-length", "0")) > self._most:
            await error.response(scope, receive, send)
        else:
            await self._app(scope, counted, send)
