"""The parts of an answer: reasoning, content and tool calls.

The form is EXAONE 4's: reasoning is in ``<think>…</think>``, a tool call in
``<tool_call>{"name": …, "arguments": …}</tool_call>``. `reasoning` and `tool_calls` say what other models write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .partial import begun
from .reasoning import REASONING, Reasoning
from .tool_calls import CALL, END_CALL, ToolCall, parameter_kinds, read_calls

__all__ = ["TAGS", "Answer", "AnswerStream", "Piece", "ToolCall", "parse_answer"]

_TOOL_TAGS = (CALL, END_CALL, "<tool>", "</tool>", "<tool_result>", "</tool_result>")
TAGS = frozenset((*_TOOL_TAGS, *(tag for tags in REASONING for tag in (tags.begin, tags.end))))
"""Of the chat formats: they are part of an answer's text, also where a tokenizer calls them special tokens."""

_MANY_TRIES = 64


@dataclass(frozen=True)
class Answer:
    """One turn of the model, parsed.

    Attributes:
        content: The text for the user, without tool calls. A call that cannot be parsed stays here as it was written.
        thinking: The reasoning; None if there is none.
        tool_calls: The calls, in order.
    """

    content: str
    thinking: str | None = None
    tool_calls: Sequence[ToolCall] = field(default=())

    def to_message(self) -> dict[str, Any]:
        """The turn as a message for the next prompt, without the reasoning, which the template would leave out."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in self.tool_calls
            ]
        return message


@dataclass(frozen=True)
class Piece:
    """A piece of an answer's text.

    Attributes:
        kind: ``thinking`` or ``content``.
        text: Never empty, and never changed by what follows.
    """

    kind: Literal["thinking", "content"]
    text: str


class AnswerStream:
    """Tells the parts of an answer apart while its text arrives, cut anywhere.

    The pieces of a kind, joined, are that part of the `Answer`: space at either end is left out, and the beginning of
    what may be a tag or a tool call is held back until it is known.

    Args:
        reasoning: The tags that the prompt opened at its end, so that the answer begins inside them.
        takes_calls: Whether the model was offered tools; otherwise what looks like a call is text.
        tools: JSON schemas of those that it was offered, as far as they are known: of arguments that may be read as
            a text or as JSON, they say which.
    """

    def __init__(
        self, *, reasoning: Reasoning | None = None, takes_calls: bool = True, tools: Sequence[Any] | None = None
    ) -> None:
        self._reasoning, self._takes_calls, self._kinds = reasoning, takes_calls, parameter_kinds(tools or ())
        self._text, self._at, self._last = "", 0, False  # decided are [0, at); whether nothing follows
        self._tried, self._tries = 0, 0
        self._state: Callable[[], bool] = self._begin
        self._found = list[Piece | ToolCall]()
        self._said: dict[str, list[str]] = {"thinking": [], "content": []}
        self._space = ""  # held back behind what was said
        self._thought = False
        self._calls = list[ToolCall]()

    def push(self, text: str) -> list[Piece | ToolCall]:
        """Take more of the text, as `AnswerDecoder` gives it, and return what is known of it by now, in order."""
        self._text += text
        return self._go_on()

    def finish(self) -> list[Piece | ToolCall]:
        """Return what was held back, at the end of the text; what was cut off is text."""
        self._last = True
        return self._go_on()

    @property
    def answer(self) -> Answer:
        """Everything that was returned so far."""
        thinking = "".join(self._said["thinking"]) if self._thought else None
        return Answer("".join(self._said["content"]), thinking, tuple(self._calls))

    def _go_on(self) -> list[Piece | ToolCall]:
        while self._state():
            pass
        self._text, self._at = self._text[self._at :], 0
        found, self._found = self._found, []
        return found

    # Each state takes text from `at` on, and returns whether the next state has something to do.

    def _begin(self) -> bool:
        body = self._text.lstrip()
        opened = next((tags for tags in REASONING if body.startswith(tags.begin)), None)
        if opened is None and not self._last and any(tags.begin.startswith(body) for tags in REASONING):
            return False
        if opened is not None:
            self._at, self._reasoning = len(self._text) - len(body) + len(opened.begin), opened
        self._thought = self._reasoning is not None
        self._state = self._think if self._thought else self._content
        return True

    def _think(self) -> bool:
        assert self._reasoning is not None
        if not self._take("thinking", self._reasoning.end):
            return False
        self._at += len(self._reasoning.end)
        self._space, self._state = "", self._content
        return True

    def _content(self) -> bool:
        if not self._takes_calls:
            self._say("content", self._text[self._at :])
            self._at = len(self._text)
            return False
        if not self._take("content", CALL):
            return False
        self._tried = self._tries = 0
        self._state = self._call
        return True

    def _call(self) -> bool:
        start = self._at + len(CALL)
        if not (self._last or self._is_due(start)):
            return False
        read = read_calls(self._text, start, self._kinds)
        if read is None and not self._last:
            self._tried, self._tries = len(self._text) - self._at, self._tries + 1
            return False
        calls, end = read or ((), start)
        if not calls:
            self._say("content", CALL)
        self._calls += calls
        self._found += calls
        self._at, self._state = end, self._content
        return True

    def _is_due(self, start: int) -> bool:
        """Whether a call should be read again: at every closing tag, else and after many when its text has doubled."""
        doubled = len(self._text) - self._at >= 2 * self._tried
        closed = self._text.find(END_CALL, max(start, self._at + self._tried - len(END_CALL))) >= 0
        return doubled or (closed and self._tries < _MANY_TRIES)

    def _take(self, kind: Literal["thinking", "content"], tag: str) -> bool:
        """Say the text before a tag, and tell whether it is there; what may begin it stays."""
        end = found = self._text.find(tag, self._at)
        if found < 0:
            end = len(self._text) - (0 if self._last else begun(self._text[self._at :], tag))
        self._say(kind, self._text[self._at : end])
        self._at = end
        return found >= 0

    def _say(self, kind: Literal["thinking", "content"], text: str) -> None:
        text = self._space + text
        if not self._said[kind]:
            text = text.lstrip()
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._said[kind].append(said)
            self._found.append(Piece(kind, said))


def parse_answer(text: str, *, reasoning: Reasoning | None = None, tools: Sequence[Any] | None = None) -> Answer:
    """Parse an answer; one that was cut off or is malformed loses nothing.

    A call whose arguments are not understood is not a call: it stays in the text.

    Args:
        text: The answer, with its tags and without other special tokens.
        reasoning: As `AnswerStream`'s.
        tools: As `AnswerStream`'s.
    """
    stream = AnswerStream(reasoning=reasoning, tools=tools)
    stream.push(text)
    stream.finish()
    return stream.answer
