"""The items of ``/v1/responses``: messages, reasoning, calls and their results, which become the messages of a chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from .base import Strict
from .texts import ItemContent
from .tools import Arguments, Name

__all__ = ["Items", "messages_of"]

_Id = Annotated[str, Field(max_length=200)]
_DIRECT = {"caller": "functions are called directly", "namespace": "functions have no namespaces"}


class _Item(Strict):
    id: _Id | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_Item):
    """A message of anyone."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: ItemContent
    phase: Literal["commentary", "final_answer"] | None = None


class ReasoningText(Strict):
    """A part of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(_Item):
    """What the model thought in a past turn; the chat template may leave it out."""

    refused: ClassVar[dict[str, str]] = {"encrypted_content": "it is not of this server; leave it out"}

    type: Literal["reasoning"]
    summary: list[dict[str, Any]] | None = None
    content: list[ReasoningText] | None = None


class CallItem(_Item):
    """A call of a function, by the model."""

    refused: ClassVar[dict[str, str]] = _DIRECT

    type: Literal["function_call"]
    call_id: _Id
    name: Name
    arguments: Arguments


class ResultItem(_Item):
    """What a function gave."""

    refused: ClassVar[dict[str, str]] = _DIRECT

    type: Literal["function_call_output"]
    call_id: _Id
    output: ItemContent
    name: Name | None = None


_Any = Annotated[MessageItem | ReasoningItem | CallItem | ResultItem, Field(discriminator="type")]


def _typed(value: Any) -> Any:
    """A text is a message of the user, and what has no type is a message."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if isinstance(value, list):
        return [{"type": "message", **each} if isinstance(each, dict) else each for each in value]
    return value


Items = Annotated[list[_Any], BeforeValidator(_typed), Field(min_length=1, max_length=10_000)]
"""A text, or items."""


def messages_of(items: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The messages that a chat has for the items; those of one turn of the model are one message."""
    turn: dict[str, Any] = {}
    for item in items:
        if isinstance(item, ReasoningItem):
            if turn:
                yield _ended(turn)
            thought = "\n".join(part.text for part in item.content or ())
            turn = {"role": "assistant", "reasoning_content": thought or None}
        elif isinstance(item, CallItem):
            function = {"name": item.name, "arguments": item.arguments}
            turn.setdefault("role", "assistant")
            turn.setdefault("tool_calls", []).append({"id": item.call_id, "type": "function", "function": function})
        elif isinstance(item, MessageItem) and item.role == "assistant" and not turn.keys() & {"content", "tool_calls"}:
            turn = {"role": "assistant", **turn, "content": item.content}
        else:
            if turn:
                yield _ended(turn)
            turn = {}
            if isinstance(item, ResultItem):
                yield {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
            elif item.role == "assistant":
                turn = {"role": "assistant", "content": item.content}
            else:
                yield {"role": item.role, "content": item.content}
    if turn:
        yield _ended(turn)


def _ended(turn: dict[str, Any]) -> dict[str, Any]:
    return {"content": None if "tool_calls" in turn else "", **turn}
