"""The most bytes of a request's body, whether it tells its length or not."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ApiError

__all__ = ["BodyLimit"]

_PAUSE_SECONDS, _MOST_SECONDS = 0.25, 2.0


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
                await _discard(receive, self._most)
                raise error
            return message

        headers = Headers(scope=scope)
        if int(headers.get("content-length", "0")) > self._most:
            if "expect" not in headers:  # otherwise the client waits before it sends the body
                await _discard(receive, self._most)
            await error.response(scope, receive, send)
        else:
            await self._app(scope, counted, send)


async def _discard(receive: Receive, most: int) -> None:
    """Take in what a client still sends, for a while and up to so many bytes.

    If the connection were closed meanwhile, the client would see that it is broken, and not the answer.
    """
    left = most
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MOST_SECONDS):
            while left > 0:
                message = await asyncio.wait_for(receive(), _PAUSE_SECONDS)
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
