"""The messages of a chat."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from .base import Strict
from .texts import Content
from .tools import GivenCall, read_arguments

__all__ = ["Message"]

_Name = Annotated[str, Field(max_length=64)]
_TEXT_ONLY = "the model reads and writes text only"


class _Said(Strict):
    name: _Name | None = None

    def for_template(self) -> dict[str, Any]:
        """As a chat template takes it."""
        return self.model_dump(exclude_none=True)


class SystemMessage(_Said):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Content

    def for_template(self) -> dict[str, Any]:
        """As a chat template takes it: what OpenAI calls the developer is the system."""
        return {**super().for_template(), "role": "system"}


class UserMessage(_Said):
    """A turn of the user."""

    role: Literal["user"]
    content: Content


class AssistantMessage(_Said):
    """A past turn of the model."""

    refused: ClassVar[dict[str, str]] = {
        "audio": _TEXT_ONLY,
        "function_call": "write tool_calls",
        "refusal": "write it as content",
    }

    role: Literal["assistant"]
    content: Content | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[GivenCall], Field(max_length=128)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check_said(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("missing", "it is missing; write a text, or tool_calls", {"param": "content"})
        return self

    def for_template(self) -> dict[str, Any]:
        """As a chat template takes it: with arguments that are objects."""
        found = self.model_dump(include={"role", "name", "reasoning_content"}, exclude_none=True)
        found["content"] = self.content or ""
        if self.tool_calls:
            found["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": read_arguments(call.function.arguments)},
                }
                for call in self.tool_calls
            ]
        return found


class ToolMessage(_Said):
    """The result of a tool call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[str, Field(max_length=200)]


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]
