"""Server-sent events: a stream of JSON objects, which frees what it reads from when its client goes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..errors import error_of

__all__ = ["STREAMED", "EventStream"]

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, whole or as events", "content": {"text/event-stream": {}}}
}
"""Of a path that answers in either way, for its description."""


class EventStream(StreamingResponse):
    """A response of events.

    Args:
        events: JSON objects; None for a comment, which shows that the stream is alive. An error ends the stream with an
            event that tells it.
        end: Is called when the response has ended, however.
        typed: Whether an event is named by its ``type`` as those of ``/v1/responses`` are; the others end with
            ``[DONE]``.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[Mapping[str, Any] | None], end: Callable[[], None], *, typed: bool = False
    ) -> None:
        super().__init__(_lines(events, typed), headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


async def _lines(events: AsyncIterator[Mapping[str, Any] | None], typed: bool) -> AsyncIterator[str]:
    try:
        async for event in events:
            name = f"event: {event['type']}\n" if typed and event is not None else ""
            yield ": waiting\n\n" if event is None else f"{name}data: {json.dumps(event, ensure_ascii=False)}\n\n"
    except Exception as error:  # noqa: BLE001 - the status was sent, so that the client is told in an event
        yield f"data: {json.dumps(error_of(error).body, ensure_ascii=False)}\n\n"
        return
    if not typed:
        yield "data: [DONE]\n\n"
