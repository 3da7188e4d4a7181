"""Tools of a chat: functions that the model may call."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from .base import Strict

__all__ = ["Arguments", "CalledFunction", "Function", "GivenCall", "Name", "NamedTool", "Tool", "read_arguments"]

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def read_arguments(text: str) -> Any:
    """The arguments of a call, an object; None where the text is not JSON."""
    try:
        return json.loads(text or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _check_arguments(text: str) -> str:
    if not isinstance(read_arguments(text), dict):
        raise PydanticCustomError("invalid_arguments", "the arguments are not a JSON object, written as text")
    return text


Arguments = Annotated[str, AfterValidator(_check_arguments)]
"""Of a call: a JSON object, written as text."""


class Function(Strict):
    """A function, described for the model."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """As a chat template takes it."""
        return {"type": "function", "function": self.function.model_dump(exclude={"strict"}, exclude_none=True)}


class _Named(Strict):
    name: Name


class NamedTool(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: _Named


class CalledFunction(Strict):
    """What a call in the conversation was: the arguments are JSON, as text."""

    name: Name
    arguments: Arguments


class GivenCall(Strict):
    """A tool call of an assistant's message."""

    refused: ClassVar[dict[str, str]] = {"custom": "only functions are called"}

    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None
