"""The form that an answer is held to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import Strict

__all__ = ["JsonObject", "JsonSchema", "ResponseFormat", "Text"]


class Text(Strict):
    """Any text."""

    type: Literal["text"]


class JsonObject(Strict):
    """Any JSON object."""

    type: Literal["json_object"]


class Schema(Strict):
    """A JSON schema with a name."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class JsonSchema(Strict):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: Schema


ResponseFormat = Annotated[Text | JsonObject | JsonSchema, Field(discriminator="type")]
