"""An answer of ``exaone-export generate`` as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from exaone_export.runtime.text.answer import parse_answer

from .asked import Asked

__all__ = ["as_json"]


def as_json(
    said: str,
    asked: Asked,
    prompt_tokens: int,
    tokens: Sequence[int],
    finish_reason: str | None,
    seconds: float,
    timings: Mapping[str, float | None],
) -> str:
    """The answer, its parts and times."""
    answer = parse_answer(said, enable_thinking=asked.thinking)
    parts = {
        "content": answer.content,
        "thinking": answer.thinking,
        "tool_calls": [dataclasses.asdict(call) for call in answer.tool_calls],
        "prompt_tokens": prompt_tokens,
        "tokens": list(tokens),
        "finish_reason": finish_reason,
        "seconds": round(seconds, 3),
        "timings": timings,
    }
    return json.dumps(parts, indent=2, ensure_ascii=False)
