"""``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from .base import Off
from .generating import Generating, Metadata, TemplateOptions
from .messages import Message
from .tools import NamedTool, Tool

__all__ = ["ChatRequest", "Effort"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much the model reasons: ``none`` is not at all, and all others are one."""

_TEXT_ONLY = "the model reads and writes text only"


class ChatRequest(Generating):
    """A chat, and how the model goes on with it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 16}]}
    )

    refused: ClassVar[dict[str, str]] = {
        "audio": _TEXT_ONLY,
        "function_call": "use tool_choice",
        "functions": "use tools",
        "moderation": "answers are not moderated; leave it out",
        "prediction": "leave it out",
        "prompt_cache_options": "prompts are always reused; leave it out",
        "verbosity": "ask for it in a message",
        "web_search_options": "the model has no access to the web; offer a tool",
    }

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: TemplateOptions | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Off | None = None
    metadata: Annotated[Metadata, Field(max_length=16)] | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        def refuse(param: str, message: str) -> PydanticCustomError:
            return PydanticCustomError("together", message, {"param": param})

        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise refuse("max_tokens", "max_completion_tokens is given too; leave one of them out")
        if self.top_logprobs and not self.logprobs:
            raise refuse("top_logprobs", "set logprobs to true")
        thinks = None if self.chat_template_kwargs is None else self.chat_template_kwargs.enable_thinking
        if None not in (thinks, self.reasoning_effort) and thinks == (self.reasoning_effort == "none"):
            raise refuse(
                "reasoning_effort", "chat_template_kwargs.enable_thinking says otherwise; leave one of them out"
            )
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise refuse("tools", "two tools have one name; rename one of them")
        if not names and self.tool_choice not in (None, "none", "auto"):
            raise refuse("tool_choice", "there are no tools; send tools too")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise refuse("tool_choice", "it names a tool that is not in tools")
        return self

    @property
    def is_constrained(self) -> bool:
        """Whether an answer is held to a grammar, such as that of tool calls."""
        if super().is_constrained:
            return True
        must_call = self.tool_choice not in (None, "none", "auto")
        is_strict = self.parallel_tool_calls is False or any(tool.function.strict for tool in self.offered)
        return bool(self.offered) and (must_call or is_strict)

    @property
    def most_tokens(self) -> int | None:
        """Of an answer; None for what fits."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def thinks(self) -> bool:
        """Whether the model reasons before it answers."""
        if self.chat_template_kwargs is not None and self.chat_template_kwargs.enable_thinking is not None:
            return self.chat_template_kwargs.enable_thinking
        return self.reasoning_effort not in (None, "none")

    @property
    def offered(self) -> list[Tool]:
        """Tools that the model may call."""
        return [] if self.tool_choice == "none" else self.tools or []
