"""What a path writes of the answers to a request, whole or while they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..answering import News
from ..errors import ApiError

__all__ = ["DONE", "Event", "Usage", "Writer"]

Event = Mapping[str, Any] | str
"""Of a stream: a JSON object, named by its ``type`` if it has one, or `DONE`."""

DONE = "[DONE]"
"""The last event of a chat and of a completion."""

Usage = Mapping[str, Any]
"""Numbers of tokens, as a chat tells them."""


class Writer(Protocol):
    """The form of a path."""

    @property
    def tokens(self) -> Sequence[int]:
        """How many have come, of each answer."""

    def begin(self) -> Iterator[Event]:
        """The events before the first token."""

    def take(self, news: News) -> Iterator[Event]:
        """The events of what is new of one answer."""

    def has_ended(self, index: int) -> bool:
        """Whether nothing further is wanted of an answer, which may be before the model's turn ends."""

    def end(self, usage: Usage) -> Iterator[Event]:
        """The events behind the answers."""

    def fail(self, error: ApiError) -> Event:
        """The last event, where there is no whole answer."""

    def whole(self, usage: Usage) -> dict[str, Any]:
        """All answers as one object, once they have ended."""
