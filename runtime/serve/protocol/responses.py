"""``POST /v1/responses``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from .base import Off, Strict
from .chat import ChatRequest, Effort
from .generating import Metadata, Sampled, TemplateOptions
from .items import Items, messages_of
from .response_format import JsonObject, Schema, StructuredOutputs, Text
from .tools import Function, Name

__all__ = ["CHAT_PARAMS", "ResponseRequest"]

_STATELESS = "the server keeps no conversation; send all of it as input"
_TEXT_ONLY = "the model reads and writes text only"

CHAT_PARAMS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of a chat, and what a request here calls them."""


class ReasoningOptions(Strict):
    """Whether the model reasons."""

    refused: ClassVar[dict[str, str]] = {
        "summary": "reasoning is given whole; leave it out",
        "generate_summary": "reasoning is given whole; leave it out",
        "context": "the chat template decides; leave it out",
        "mode": "leave it out",
    }

    effort: Effort | None = None


class SchemaFormat(Schema):
    """JSON that a schema allows."""

    type: Literal["json_schema"]


class TextOptions(Strict):
    """The form of the answer's text."""

    format: Annotated[Text | JsonObject | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class FunctionTool(Function):
    """A function that the model may call."""

    refused: ClassVar[dict[str, str]] = {
        "allowed_callers": "functions are called directly; leave it out",
        "defer_loading": "all tools are in the prompt; leave it out",
        "output_schema": "describe the result in the description",
    }

    type: Literal["function"]


class FunctionChoice(Strict):
    """The function that must be called."""

    type: Literal["function"]
    name: Name


class ResponseStreamOptions(Strict):
    """What a stream says beside the answer."""

    include_obfuscation: Off | None = None


class ResponseRequest(Sampled):
    """What the model is to answer; nothing of it is kept."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": "Hi!", "max_output_tokens": 16}]})

    refused: ClassVar[dict[str, str]] = {
        "access_programs": "leave it out",
        "background_options": "the response is not made in the background; leave it out",
        "context_management": "shorten the input yourself",
        "conversation": _STATELESS,
        "image": _TEXT_ONLY,
        "moderation": "answers are not moderated; leave it out",
        "previous_response_id": _STATELESS,
        "prompt": "the server keeps no prompts; write instructions and input",
        "prompt_cache_options": "prompts are always reused; leave it out",
    }

    input: Items
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    reasoning: ReasoningOptions | None = None
    chat_template_kwargs: TemplateOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    background: Off | None = None
    store: Off | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    stream_options: ResponseStreamOptions | None = None
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None

    def to_chat(self) -> ChatRequest:
        """The chat that is the same.

        Raises:
            ValidationError: Fields of it contradict each other.
        """
        messages = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        wants_logprobs = bool(self.top_logprobs) or "message.output_text.logprobs" in (self.include or ())
        shared = self.model_dump(include=_SHARED, exclude_none=True, by_alias=True)
        choice = self.tool_choice
        return ChatRequest.model_validate(
            {
                **shared,
                "messages": [*messages, *messages_of(self.input)],
                "max_completion_tokens": self.max_output_tokens,
                "tools": [{"type": "function", "function": _without_type(tool)} for tool in self.tools or ()],
                "tool_choice": {"type": "function", "function": {"name": choice.name}}
                if isinstance(choice, FunctionChoice)
                else choice,
                "response_format": self._format,
                "reasoning_effort": self.reasoning.effort if self.reasoning else None,
                "logprobs": wants_logprobs,
                "top_logprobs": (self.top_logprobs or 0) if wants_logprobs else None,
            }
        )

    @property
    def _format(self) -> Any:
        found = self.text.format if self.text else None
        if isinstance(found, SchemaFormat):
            return {"type": "json_schema", "json_schema": _without_type(found)}
        return None if found is None else found.model_dump()


_SHARED = {*Sampled.model_fields, "parallel_tool_calls", "structured_outputs", "chat_template_kwargs"}


def _without_type(value: Strict) -> dict[str, Any]:
    return value.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
