"""Numbers for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..core.requests import Generation
from ..core.scheduling.statistics import Statistics

__all__ = ["Metrics"]

_PREFIX = "exaone"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_GAUGES = {
    "slots": "Answers that can be generated at once",
    "running": "Requests that have a slot",
    "waiting": "Requests that wait for a slot",
    "held_tokens": "Tokens that the caches hold",
}
_COUNTERS = {
    "prompt_tokens": "Tokens of the prompts that were begun",
    "reused_tokens": "Tokens of prompts that a cache held already",
    "answer_tokens": "Tokens that were generated",
    "steps": "Steps of the model",
}


class _Engine:
    """Reads the engine's numbers when they are read."""

    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        found = self._statistics()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=getattr(found, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"{_PREFIX}_{name}", text, value=getattr(found, name))


class Metrics:
    """What the server counts.

    Args:
        statistics: Of the engine; None where there is none.
    """

    def __init__(self, statistics: Callable[[], Statistics] | None) -> None:
        registry = self._registry = CollectorRegistry()
        labels = ("method", "path", "status")
        self._requests = Counter(f"{_PREFIX}_http_requests", "Requests that were answered", labels, registry=registry)
        self._seconds = Histogram(
            f"{_PREFIX}_http_seconds", "Time of a request", ("path",), registry=registry, buckets=_SECONDS
        )
        self._first = Histogram(
            f"{_PREFIX}_time_to_first_token_seconds",
            "From a request to its first token",
            registry=registry,
            buckets=_SECONDS,
        )
        self._each = Histogram(
            f"{_PREFIX}_time_per_output_token_seconds",
            "Between the tokens of an answer",
            registry=registry,
            buckets=_TOKEN_SECONDS,
        )
        ProcessCollector(registry=registry)
        if statistics is not None:
            registry.register(_Engine(statistics))

    def note_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def note_answers(self, generations: Sequence[Generation], tokens: Sequence[int]) -> None:
        """Answers have ended, each with so many tokens."""
        for generation, count in zip(generations, tokens, strict=True):
            if (first := generation.timings.time_to_first_token) is not None:
                self._first.observe(first)
            if speed := generation.timings.tokens_per_second(count):
                self._each.observe(1 / speed)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        found: bytes = generate_latest(self._registry)
        return found
