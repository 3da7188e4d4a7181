"""What was found of a server, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..report import percentile

__all__ = ["Level", "ServingReport"]


@dataclass
class Level:
    """So many clients, each of which sends a request when it has the answer to the one before.

    Attributes:
        concurrency: Clients.
        seconds: From the first request to the last answer.
        prompt_tokens: Of all prompts.
        answer_tokens: Of all answers.
        first_tokens: Seconds from a request to its first event, of every answer.
        gaps: Seconds between the events of an answer, of all answers.
        answers: Seconds from a request to the end of its answer.
        failures: What the requests were told that were not answered.
    """

    concurrency: int
    seconds: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    first_tokens: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens of answers a second, those of all clients together."""
        return self.answer_tokens / max(self.seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """For programs; times are in seconds."""
        return {
            "concurrency": self.concurrency,
            "requests": len(self.answers) + len(self.failures),
            "failed": len(self.failures),
            "failures": sorted(set(self.failures))[:5],
            "seconds": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "answer_tokens_per_second": self.rate,
            "requests_per_second": len(self.answers) / max(self.seconds, 1e-9),
            "time_to_first_token": _percentiles(self.first_tokens),
            "time_per_output_token": _percentiles(self.gaps),
            "time_per_answer": _percentiles(self.answers),
        }


@dataclass(frozen=True)
class ServingReport:
    """All that was found of a server.

    Attributes:
        server: Its name.
        levels: By the number of clients, in the order of the measurement.
        trace: The requests: ``requests`` a level, ``prompt`` and ``new`` tokens at most, mean ``pause``, ``seed``.
        details: Of the server: what it runs, and how.
        peak_memory: Bytes, the most that its process has held; None where it is unknown.
        load_seconds: From its start to its address; None where it ran before.
    """

    server: str
    levels: Sequence[Level]
    trace: Mapping[str, Any]
    details: Mapping[str, Any]
    peak_memory: int | None = None
    load_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "server": self.server,
            **self.details,
            "trace": dict(self.trace),
            "load_seconds": self.load_seconds,
            "peak_memory_bytes": self.peak_memory,
            "levels": [level.to_dict() for level in self.levels],
        }


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    return {"p50": percentile(seconds, 0.50), "p95": percentile(seconds, 0.95)} if seconds else None
