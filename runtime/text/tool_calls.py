"""Tool calls in a model's text: ``<tool_call>{"name": …, "arguments": …}</tool_call>``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CALL", "END_CALL", "ToolCall", "read_calls"]

CALL, END_CALL = "<tool_call>", "</tool_call>"

# EXAONE 4's template takes a call with either key; a model may have been trained on both.
_ARGUMENTS = ("arguments", "parameters")
_LABELS = {"id", "index", "type"}  # of a call; they say nothing about what is called
_MAX_DEPTH = 64
_LONGEST_LITERAL = 16  # More than of any JSON value that a cut can make wrong, but strings and numbers.


@dataclass(frozen=True)
class ToolCall:
    """A tool call of the model.

    Attributes:
        name: Of the tool.
        arguments: By name.
    """

    name: str
    arguments: Mapping[str, Any]


def read_calls(text: str, start: int) -> tuple[tuple[ToolCall, ...], int] | None:
    """Read the call, or the list of calls, behind an opening tag.

    The decoder finds the end of the JSON by itself, because an argument may hold the closing tag.

    Args:
        text: May go on.
        start: Where the tag ends.

    Returns:
        The calls and where the text continues: no calls, whatever follows, where the tag is only text. None if that
        depends on what follows.
    """
    nothing = (), start
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, start))
        calls = tuple(_to_call(call) for call in (value if isinstance(value, list) else [value]))
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated string") or error.pos + _LONGEST_LITERAL > len(text)
        return None if cut else nothing
    except (ValueError, RecursionError):
        return None if text[-1:] in "0123456789+-.eE" else nothing  # a number that is too large may become smaller
    end = _skip_space(text, end)
    if not calls:
        return nothing
    if text.startswith(END_CALL, end):
        return calls, end + len(END_CALL)
    return None if END_CALL.startswith(text[end:]) else nothing


class _NotACallError(ValueError):
    """JSON behind an opening tag that is not a call as it is understood."""


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
