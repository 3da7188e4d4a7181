"""The answers of a chat and of a completion: choices, in one object or as chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..answering import News
from ..errors import ApiError
from ..protocol.generating import Generating
from .writer import DONE, Event, Usage

__all__ = ["Choice", "Choices"]


class Choice(Protocol):
    """One answer.

    Attributes:
        tokens: That have come.
        finish_reason: As OpenAI names it; None while it goes on.
    """

    tokens: int
    finish_reason: str | None

    def begin(self) -> Iterator[dict[str, Any]]:
        """The choices of chunks before its first token."""

    def take(self, news: News) -> Iterator[dict[str, Any]]:
        """What is new, as the choices of chunks."""

    @property
    def whole(self) -> dict[str, Any]:
        """The choice, once it has ended."""


class Choices:
    """The `.writer.Writer` of a chat and of a completion.

    Args:
        body: The request.
        choices: One an answer.
        prefix: What an id begins with.
        kind: The object.
        chunk: The object of a stream.
    """

    def __init__(self, body: Generating, choices: Sequence[Choice], *, prefix: str, kind: str, chunk: str) -> None:
        self._choices, self._gives_usage = choices, body.gives_usage
        self._head = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": chunk if body.stream else kind,
            "created": int(time.time()),
            "model": body.model,
        }

    @property
    def tokens(self) -> Sequence[int]:
        """How many have come, of each answer."""
        return [choice.tokens for choice in self._choices]

    def begin(self) -> Iterator[Event]:
        """The chunks before the first token."""
        for choice in self._choices:
            yield from map(self._chunk, choice.begin())

    def take(self, news: News) -> Iterator[Event]:
        """The chunks of what is new of one answer."""
        yield from map(self._chunk, self._choices[news.index].take(news))

    def has_ended(self, index: int) -> bool:
        """Whether nothing further is wanted of an answer."""
        return self._choices[index].finish_reason is not None

    def end(self, usage: Usage) -> Iterator[Event]:
        """The chunk with the numbers of tokens, where the request asks for it, and the end."""
        if self._gives_usage:
            yield {**self._head, "choices": [], "usage": usage}
        yield DONE

    def fail(self, error: ApiError) -> Event:
        """The error; no `DONE` follows."""
        return error.body

    def whole(self, usage: Usage) -> dict[str, Any]:
        """All answers as one object."""
        return {**self._head, "choices": [choice.whole for choice in self._choices], "usage": usage}

    def _chunk(self, choice: dict[str, Any]) -> Event:
        more: dict[str, Any] = {"usage": None} if self._gives_usage else {}
        return {**self._head, "choices": [choice], **more}
