"""`Turn`: what a model says in its turn of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.requests import FinishReason, Timings
from ..one_process import OneProcess
from ..text.answer import Answer, AnswerStream, Piece, ToolCall
from ..text.reasoning import Reasoning
from .answers import TextAnswer

__all__ = ["Message", "Turn"]

Message = Mapping[str, Any]
"""Of a conversation, as chat templates take it."""


class Turn(OneProcess):
    """The model's turn, while it is generated: iterate over it, or over its `parts`, in one thread."""

    instead = "pass on what read() returns"

    def __init__(
        self,
        text: TextAnswer,
        messages: list[Message],
        *,
        reasoning: Reasoning | None,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        self._text, self._messages = text, messages
        self._stream = AnswerStream(reasoning=reasoning, tools=tools)
        self._pieces, self._begun, self._ended = iter(text), False, False

    def parts(self) -> Iterator[Piece | ToolCall]:
        """Pieces of reasoning and content, and tool calls, as soon as they are known."""
        if self._begun:
            return
        self._begun = True
        try:
            for piece in self._pieces:
                yield from self._stream.push(piece)
        finally:
            rest = self._end()
        yield from rest

    def _end(self) -> list[Piece | ToolCall]:
        """What was held back, once; the conversation then has the turn."""
        if self._ended:
            return []
        self._ended = True
        self._pieces.close()  # type: ignore[attr-defined]
        rest = self._stream.finish()
        self._messages.append(self.answer.to_message())
        return rest

    def __iter__(self) -> Iterator[str]:
        """The content alone."""
        for part in self.parts():
            if isinstance(part, Piece) and part.kind == "content":
                yield part.text

    def read(self) -> Answer:
        """Wait for the rest, which an iteration that was begun does not get any more, and return the whole."""
        self._begun = True
        try:
            for piece in self._pieces:
                self._stream.push(piece)
        finally:
            self._end()
        return self.answer

    def cancel(self) -> None:
        """End it, from any thread."""
        self._text.cancel()

    @property
    def answer(self) -> Answer:
        """What was said so far."""
        return self._stream.answer

    @property
    def finish_reason(self) -> FinishReason | None:
        """``stop``, ``length`` or ``cancelled``; None while it goes on."""
        return self._text.finish_reason

    @property
    def stopped(self) -> str | None:
        """The stop string that ended it, or None."""
        return self._text.stopped

    @property
    def tokens(self) -> Sequence[int]:
        """Ids of its tokens so far."""
        return self._text.tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; `timings` says how many of them were in the cache."""
        return self._text.prompt_tokens

    @property
    def timings(self) -> Timings:
        """When things happened."""
        return self._text.timings
