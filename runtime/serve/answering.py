"""From the engine's thread to asyncio: the answers of one request, while they are generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from ..core.engine import Engine
from ..core.requests import FinishReason, Generation, Request, Token
from ..text.stream import TextStream
from .errors import ApiError

__all__ = ["Answers", "News"]

_PATIENCE = 15.0
"""Seconds after which an iteration gives None, so that a stream can show its client that it is alive."""


@dataclass
class News:
    """What is new of an answer.

    Attributes:
        index: Of the answer.
        text: That is known by now.
        tokens: That have come.
        finish_reason: Why there is no further one; None while it goes on.
    """

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Answers:
    """Several answers of one request; iterate over their news, once.

    Leave the iteration, or call `close`, to free their slots within a step.

    Args:
        engine: Generates them.
        loop: Where they are read; requests may be submitted from another thread.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine, self._loop, self._wake = engine, loop, asyncio.Event()
        self._streams: list[tuple[Generation, TextStream]] = []
        self._left = set[int]()
        self._error: ApiError | None = None

    def listen(self) -> None:
        """A request's listener, in the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def submit(self, requests: Sequence[tuple[Request, TextStream]]) -> None:
        """Submit all of them, or none.

        Raises:
            EngineBusyError: The queue is full.
            PromptError: A prompt cannot be run.
            UnsupportedOptionError: An option is out of range.
        """
        try:
            for request, stream in requests:
                self._streams.append((self._engine.submit(request), stream))
        except BaseException:
            self.close()
            raise
        if self._error is not None:
            self.close()  # it was ended while they were submitted

    @property
    def generations(self) -> list[Generation]:
        """In the order of the requests."""
        return [generation for generation, _ in self._streams]

    def leave(self, index: int) -> None:
        """End one of them, of which no further news is wanted."""
        self._left.add(index)
        self._streams[index][0].cancel()

    def end(self, error: ApiError) -> None:
        """End them, and raise the error in the iteration."""
        self._error = self._error or error
        self.close()
        self._wake.set()

    def close(self) -> None:
        """End them."""
        for generation, _ in self._streams:
            if generation.finish_reason is None:
                generation.cancel()

    async def __aiter__(self) -> AsyncIterator[News | None]:
        try:
            while True:
                self._wake.clear()  # before reading, so that nothing that comes meanwhile is missed
                if self._error is not None:
                    raise self._error
                for index in range(len(self._streams)):
                    if (news := self._read(index)) is not None:
                        yield news
                ended = {index for index, each in enumerate(self.generations) if each.finish_reason is not None}
                if len(ended | self._left) == len(self._streams):
                    return
                try:
                    await asyncio.wait_for(self._wake.wait(), _PATIENCE)
                except TimeoutError:
                    yield None
        finally:
            self.close()

    def _read(self, index: int) -> News | None:
        generation, stream = self._streams[index]
        events = generation.poll()
        if not events or index in self._left:
            return None
        news = News(index)
        for event in events:
            if isinstance(event, Token):
                news.tokens.append(event)
                news.text += stream.push(event.id)
            elif isinstance(event, BaseException):
                raise event
            elif event == "cancelled":
                raise self._error or ApiError(503, "the server is stopping; try again later.", code="stopping")
            else:
                news.text += stream.finish()
                news.finish_reason = event
        return news
