"""The parts of an answer: reasoning, content and tool calls.

The form is EXAONE 4's: reasoning is in ``<think>…</think>``, a tool call in
``<tool_call>{"name": …, "arguments": …}</tool_call>``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TAGS", "Answer", "ToolCall", "parse_answer"]

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"
TAGS = frozenset((THINK, END_THINK, CALL, END_CALL, "<tool>", "</tool>", "<tool_result>", "</tool_result>"))
"""Of EXAONE 4's chat format: they are part of an answer's text, also where a tokenizer calls them special tokens."""

# EXAONE 4's template takes a call with either key; a model may have been trained on both.
_ARGUMENTS = ("arguments", "parameters")
_LABELS = {"id", "index", "type"}  # of a call; they say nothing about what is called
_MAX_DEPTH = 64


@dataclass(frozen=True)
class ToolCall:
    """A tool call of the model.

    Attributes:
        name: Of the tool.
        arguments: By name.
    """

    name: str
    arguments: Mapping[str, Any]


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


def parse_answer(text: str, *, enable_thinking: bool = False) -> Answer:
    """Parse an answer; one that was cut off or is malformed loses nothing.

    A call whose arguments are not understood is not a call: it stays in the text.

    Args:
        text: The answer, with its tags and without other special tokens.
        enable_thinking: Whether the prompt ended in an open ``<think>``, so that the answer begins inside it.
    """
    body, thinking = text, None
    if body.lstrip().startswith(THINK):
        body, enable_thinking = body.lstrip().removeprefix(THINK), True
    if enable_thinking:
        thought, _, body = body.partition(END_THINK)
        thinking = thought.strip()
    content, calls = _take_calls(body)
    return Answer(content.strip(), thinking, calls)


class _NotACallError(ValueError):
    """JSON behind an opening tag that is not a call as it is understood."""


def _take_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """Split ``text`` into the content and the calls that can be parsed."""
    said, calls, position = list[str](), list[ToolCall](), 0
    while (start := text.find(CALL, position)) >= 0:
        found, end = _read_calls(text, start + len(CALL))
        said.append(text[position : start if found else end])
        calls += found
        position = end
    said.append(text[position:])
    return "".join(said), tuple(calls)


def _read_calls(text: str, start: int) -> tuple[list[ToolCall], int]:
    """The call, or the list of calls, at ``start``, and where the text continues; without one, the tag stays text.

    The decoder finds the end of the JSON by itself, because an argument may hold the closing tag.
    """
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, start))
        calls = [_to_call(call) for call in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return [], start
    end = _skip_space(text, end)
    return (calls, end + len(END_CALL)) if text.startswith(END_CALL, end) else ([], start)


def _to_call(value: Any) -> ToolCall:
    """A call as JSON, flat or with its parts under ``function``.

    Raises:
        ValueError: It is not a call, or something of it would be lost.
    """
    if isinstance(value, dict) and isinstance(value.get("function"), dict) and value.keys() <= {"function", *_LABELS}:
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _NotACallError
    given = [key for key in _ARGUMENTS if key in value]
    if len(given) > 1 or not value.keys() <= {"name", *given, *_LABELS}:
        raise _NotACallError  # which of the keys are the arguments is not known
    arguments = value[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments = _DECODER.decode(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise _NotACallError  # arguments have names
    for text in _texts([value["name"], arguments]):
        text.encode()  # half of a surrogate pair, which JSON can write, could not be printed
    return ToolCall(value["name"], arguments)


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Every text in a JSON value."""
    if depth > _MAX_DEPTH:
        raise _NotACallError  # it could not be written again
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        yield from value if isinstance(value, dict) else ()
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, depth + 1)


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _reject(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is beyond every float")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_reject, parse_float=_finite)
