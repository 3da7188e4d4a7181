"""What a chat and a completion share: how tokens are chosen, when an answer ends, and how it is sent."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ..settings import LONGEST_NAME
from .base import Off, Strict
from .response_format import ResponseFormat, StructuredOutputs, Text
from .texts import Stops

__all__ = ["Generating", "Metadata", "Sampled", "StreamOptions", "TemplateOptions"]

_MOST = 2**31 - 1
Metadata = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


class StreamOptions(Strict):
    """What a stream says beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: Off | None = None


class TemplateOptions(Strict):
    """What the chat template is given."""

    enable_thinking: bool | None = None


class Sampled(Strict):
    """A request whose answer is generated, however it is written."""

    model: Annotated[str, Field(max_length=LONGEST_NAME)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MOST)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stops | None = None
    stream: bool | None = None
    user: Annotated[str, Field(max_length=512)] | None = None

    _options: ClassVar[tuple[str, ...]] = (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
    )

    @property
    def sampling(self) -> dict[str, Any]:
        """Options of `exaone_export.runtime.core.sampling.Sampling` that are given."""
        found = {name: value for name in self._options if (value := getattr(self, name)) is not None}
        if "top_k" in found:
            found["top_k"] = max(found["top_k"], 0)  # vLLM's clients write -1 for all
        if self.logit_bias:
            found["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        return found


class Generating(Sampled):
    """A chat or a completion."""

    max_tokens: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _check_alone(self) -> Generating:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("together", "it is for a stream; set stream to true", {"param": "stream_options"})
        if self.structured_outputs is not None and self.response_format is not None:
            raise PydanticCustomError(
                "together",
                "response_format is given too; leave one of them out",
                {"param": "structured_outputs"},
            )
        return self

    @property
    def count(self) -> int:
        """Answers to a prompt."""
        return self.n or 1

    @property
    def is_constrained(self) -> bool:
        """Whether an answer is held to a grammar."""
        return self.structured_outputs is not None or not isinstance(self.response_format, Text | None)

    @property
    def gives_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)
