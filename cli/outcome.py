"""How an answer of ``exaone-export generate`` ended, as the last lines on stderr or as JSON."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Sequence

from exaone_export.runtime.core.requests import FinishReason
from exaone_export.runtime.text.answer import parse_answer

from .asked import Asked
from .output import say, tell
from .prepared import Prepared

__all__ = ["Outcome", "report"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An answer that has ended.

    Attributes:
        said: Its text.
        tokens: Its token ids.
        finish_reason: Why it ended.
        why: The same in words, where it is neither cut off nor cancelled.
        load_seconds: From the check of the weights to a model that is loaded.
        first_token_seconds: From the request to the first token; None where there is none.
        tokens_per_second: Behind the first token; None for fewer than two.
        seconds: From the request to the last token.
    """

    said: str
    tokens: Sequence[int]
    finish_reason: FinishReason
    why: str
    load_seconds: float
    first_token_seconds: float | None
    tokens_per_second: float | None
    seconds: float


def report(outcome: Outcome, asked: Asked, prepared: Prepared) -> int:
    """Print how the answer ended, and with ``--json`` the answer itself.

    Returns:
        The exit status.
    """
    if asked.as_json:
        say(_as_json(outcome, asked, prepared))
    else:
        say("")
        tell(_closing_line(outcome, prepared.seed))
    if outcome.finish_reason == "length":
        tell(f"warning: the answer was cut off at {_counted(outcome)}; {_more(outcome, prepared)}.")
    return 128 + signal.SIGINT if outcome.finish_reason == "cancelled" else 0


def _closing_line(outcome: Outcome, seed: int | None) -> str:
    """All that a terminal of 80 columns has room for; ``--json`` has the rest."""
    parts = [_counted(outcome)]
    if outcome.tokens_per_second is not None:
        parts.append(f"{outcome.tokens_per_second:.1f}/s")
    if outcome.first_token_seconds is not None:
        parts.append(f"first after {outcome.first_token_seconds:.2f} s")
    if seed is not None:
        parts.append(f"seed {seed}")
    why = {"length": "cut off", "cancelled": "cancelled"}.get(outcome.finish_reason, outcome.why)
    return f"{', '.join(parts)}; stopped by: {why}"


def _counted(outcome: Outcome) -> str:
    count = len(outcome.tokens)
    return "1 token" if count == 1 else f"{count} tokens"


def _more(outcome: Outcome, prepared: Prepared) -> str:
    room = prepared.max_length - len(prepared.tokens)
    if len(outcome.tokens) < room:
        return f"pass a larger --max-new-tokens, up to {room}"
    if prepared.max_length < prepared.longest:
        return (
            f"the artifact holds {prepared.max_length} tokens, so export with a larger --max-length, up to "
            f"{prepared.longest}"
        )
    return f"prompt and answer fill the {prepared.max_length} tokens that the model takes, so shorten the prompt"


def _as_json(outcome: Outcome, asked: Asked, prepared: Prepared) -> str:
    answer = parse_answer(outcome.said, reasoning=prepared.reasoning, tools=asked.tools)
    parts = {
        "content": answer.content,
        "thinking": answer.thinking,
        "tool_calls": [dataclasses.asdict(call) for call in answer.tool_calls],
        "prompt_tokens": len(prepared.tokens),
        "tokens": list(outcome.tokens),
        "finish_reason": outcome.finish_reason,
        "seed": prepared.seed,
        "seconds": round(outcome.seconds, 3),
        "timings": {
            "load_seconds": round(outcome.load_seconds, 3),
            "first_token_seconds": _rounded(outcome.first_token_seconds, 4),
            "tokens_per_second": _rounded(outcome.tokens_per_second, 2),
        },
    }
    return json.dumps(parts, indent=2, ensure_ascii=False)


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)
