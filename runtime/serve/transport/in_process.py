"""An ASGI application called in its own process, by requests that came another way than a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message

__all__ = ["Call", "messages"]

_SECONDS_TO_END = 2.0
"""That an application has to end once its client has gone."""


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes:
        method: Of HTTP.
        path: Without its query.
        body: All of it.
        headers: In lower case, those of the connection left out.
        query: Behind the question mark.
    """

    method: str
    path: str
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    query: bytes = b""


async def messages(app: ASGIApp, call: Call) -> AsyncIterator[Message]:
    """The messages of a response, as they are sent; closing the iterator tells the application that its client left.

    Args:
        app: An ASGI application.
        call: The request, which comes from this machine: its host is ``localhost``.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    given, gone = [{"type": "http.request", "body": call.body}], asyncio.Event()

    async def receive() -> Message:
        if given:
            return given.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(_scope(call), receive, sent.put)
        finally:
            sent.put_nowait(None)

    running = asyncio.ensure_future(run())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await running
    finally:
        gone.set()
        if not running.done():
            await asyncio.wait([running], timeout=_SECONDS_TO_END)
            running.cancel()


def _scope(call: Call) -> Message:
    length = str(len(call.body)).encode()
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "http",
        "path": call.path,
        "raw_path": call.path.encode(),
        "root_path": "",
        "query_string": call.query,
        "headers": [(b"host", b"localhost"), (b"content-length", length), *call.headers],
    }
