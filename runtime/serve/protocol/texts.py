"""Texts of a request that may be written in several ways: a text or a list of them, or the parts of a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = ["Content", "Inputs", "ItemContent", "Stops"]

_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_MOST_STOPS = 16
_MOST_INPUTS = 2048  # as OpenAI's; clients for vectors send up to so many at once


def _part(kind: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, "text": _TEXT},
        "required": ["type", "text"],
        "additionalProperties": False,
    }


def _error(message: str, **context: Any) -> PydanticCustomError:
    return PydanticCustomError("invalid_text", message, context)


def _joiner(*kinds: str, beside: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """What joins the text of a message's parts, a line each; keys ``beside`` it have no effect."""

    def joined(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        found = []
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind not in kinds:
                message = "a part of the type '{kind}' is not supported; send parts of the type {kinds}"
                raise _error(message, kind=kind[:40], kinds=kinds[0])
            if kind is None or {"type", "text"} ^ part.keys() - set(beside) or not isinstance(part["text"], str):
                raise _error(
                    'a part of a message is an object such as {{"type": "{kind}", "text": "…"}}', kind=kinds[0]
                )
            found.append(part["text"])
        return "\n".join(found)

    return joined


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _inputs(value: Any) -> Any:
    """A list of prompts, each a text or token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        value = [value]
    if not isinstance(value, list) or not value:
        raise _error("write a text, a list of texts, token ids or a list of them; not an empty one")
    if len(value) > _MOST_INPUTS:
        raise _error("there are {count} of them, and at most {most} may be", count=len(value), most=_MOST_INPUTS)
    for each in value:
        ids = isinstance(each, list) and each and all(type(token) is int for token in each)
        if not isinstance(each, str) and not ids:
            raise _error("each of them is a text, or a list of token ids that is not empty")
        if ids and not all(0 <= token < 1 << 31 for token in each):
            raise _error("a token id is below 0 or too large; take ids from the model's tokenizer")
    return value


Content = Annotated[
    str,
    BeforeValidator(_joiner("text")),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _part("text")}]}),
]
"""A message's text, or its parts, which are joined by newlines."""

ItemContent = Annotated[
    str,
    BeforeValidator(_joiner("input_text", "output_text", "text", beside=("annotations", "logprobs"))),
    WithJsonSchema(
        {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": [_part("input_text"), _part("output_text")]}}]}
    ),
]
"""The same of an item of ``/v1/responses``."""

Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    BeforeValidator(_listed),
    Field(max_length=_MOST_STOPS),
    WithJsonSchema({"anyOf": [{**_TEXT, "minLength": 1}, {**_TEXTS, "maxItems": _MOST_STOPS}]}),
]
"""Texts that end an answer."""

Inputs = Annotated[
    list[str | list[int]],
    BeforeValidator(_inputs),
    WithJsonSchema(
        {"anyOf": [_TEXT, {**_TEXTS, "minItems": 1}, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}
    ),
]
"""Prompts, each a text or token ids."""
