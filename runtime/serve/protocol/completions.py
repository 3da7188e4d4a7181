"""``POST /v1/completions``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from .base import Off
from .generating import Generating
from .texts import Inputs

__all__ = ["CompletionRequest"]

DEFAULT_TOKENS = 16
"""Of an answer, as OpenAI has it."""

_MOST_ANSWERS = 256


class CompletionRequest(Generating):
    """Prompts, used as they are, and how the model goes on with them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Once upon a time", "max_tokens": 16}]})

    refused: ClassVar[dict[str, str]] = {"suffix": "the model was not trained to fill a gap"}

    prompt: Inputs
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Off | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @model_validator(mode="after")
    def _check_count(self) -> CompletionRequest:
        if self.count * len(self.prompt) > _MOST_ANSWERS:
            raise PydanticCustomError(
                "too_many",
                "prompts times n come to more than {most} answers; send fewer at a time",
                {"most": _MOST_ANSWERS, "param": "n"},
            )
        return self
