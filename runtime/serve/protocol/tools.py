"""Tools of a chat: functions that the model may call."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .base import Strict

__all__ = ["CalledFunction", "Function", "GivenCall", "NamedTool", "Tool"]

_Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(Strict):
    """A function, described for the model."""

    name: _Name
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
    name: _Name


class NamedTool(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: _Named


class CalledFunction(Strict):
    """What a call in the conversation was: the arguments are JSON, as text."""

    name: _Name
    arguments: str


class GivenCall(Strict):
    """A tool call of an assistant's message."""

    refused: ClassVar[dict[str, str]] = {"custom": "only functions are called"}

    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None
