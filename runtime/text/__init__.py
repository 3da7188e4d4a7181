"""Text to tokens and back, without torch and transformers: tokenizer, chat template, streams, answers.

The names below are imported when they are first used, so that importing one module of the room loads no other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Answer, AnswerStream, ToolCall, parse_answer
    from .chat import AnswerDecoder, ChatFormat
    from .reasoning import Reasoning
    from .stream import TextStream
    from .tokenizer import Tokenizer

__all__ = [
    "Answer",
    "AnswerDecoder",
    "AnswerStream",
    "ChatFormat",
    "Reasoning",
    "TextStream",
    "Tokenizer",
    "ToolCall",
    "parse_answer",
]

_HOMES = {
    "Answer": ".answer",
    "AnswerDecoder": ".chat",
    "AnswerStream": ".answer",
    "ChatFormat": ".chat",
    "Reasoning": ".reasoning",
    "TextStream": ".stream",
    "Tokenizer": ".tokenizer",
    "ToolCall": ".answer",
    "parse_answer": ".answer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name], __name__), name)
    return value
