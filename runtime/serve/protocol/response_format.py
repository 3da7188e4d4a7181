"""The form that an answer is held to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .base import Strict

__all__ = ["JsonObject", "JsonSchema", "ResponseFormat", "StructuredOutputs", "Text"]


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


class StructuredOutputs(Strict):
    """The form of an answer as vLLM names it: one of the three."""

    json_: dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> StructuredOutputs:
        if sum(each is not None for each in (self.json_, self.regex, self.choice)) != 1:
            raise ValueError("give exactly one of json, regex and choice")
        return self
