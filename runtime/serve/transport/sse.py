"""Server-sent events: a stream of JSON objects, which frees what it reads from when its client goes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["STREAMED", "EventStream"]

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, whole or as events", "content": {"text/event-stream": {}}}
}
"""Of a path that answers in either way, for its description."""


class EventStream(StreamingResponse):
    """A response of events.

    Args:
        events: JSON objects, each named by its ``type`` if it has one; a text as it is; None for a comment, which shows
            that the stream is alive.
        end: Is called when the response has ended, however.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[Mapping[str, Any] | str | None], end: Callable[[], None]) -> None:
        super().__init__(_lines(events), headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


async def _lines(events: AsyncIterator[Mapping[str, Any] | str | None]) -> AsyncIterator[str]:
    async for event in events:
        if event is None:
            yield ": waiting\n\n"
        elif isinstance(event, str):
            yield f"data: {event}\n\n"
        else:
            name = f"event: {event['type']}\n" if "type" in event else ""
            yield f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n"
