"""Text to tokens and back: tokenizer, chat template, answers.

The names below are imported when they are first used, so that importing one module of the room loads no other.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Answer, ToolCall, parse_answer
    from .chat import AnswerDecoder, ChatFormat, stream, tokenizer_option
    from .tokenizer import load_tokenizer

__all__ = [
    "Answer",
    "AnswerDecoder",
    "ChatFormat",
    "ToolCall",
    "load_tokenizer",
    "parse_answer",
    "stream",
    "tokenizer_option",
]

_HOMES = {
    "Answer": ".answer",
    "AnswerDecoder": ".chat",
    "ChatFormat": ".chat",
    "ToolCall": ".answer",
    "load_tokenizer": ".tokenizer",
    "parse_answer": ".answer",
    "stream": ".chat",
    "tokenizer_option": ".chat",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name], __name__), name)
    return value
