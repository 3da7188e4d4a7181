"""What was found, as data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .cases import DECODE, FORWARD, Case, LeftOut


@dataclass(frozen=True)
class Spread:
    """One figure of every repetition, in their order."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Median, lowest, highest, and all."""
        ends = {"median": self.median, "lowest": min(self.values), "highest": max(self.values)}
        return ends | {"values": list(self.values)}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed, the nearest-rank percentile."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


@dataclass
class Result:
    """What was found of one case.

    Attributes:
        case: That one.
        step_bytes: The least that a decode step reads, the mean over the new tokens; 0 for a prompt.
        rates: Tokens a second of every repetition, those of all rows together.
        first_tokens: Seconds to the first token of every repetition, or to the outputs of a model that generates none.
        gaps: Seconds between tokens, of all repetitions.
        session_seconds: Of every repetition, the time in the session's own steps within what `rates` is of.
        session_shares: Of every repetition, that time as a share of all.
        steps: Seconds of every step of the session, of all repetitions.
        bandwidths: Bytes a second that memory gave just before every repetition.
        peak_memory: Bytes, the most that the process has held until the end of this case; None where it is unknown.
        device_memory: Bytes in use on the GPU, more than before the artifact was loaded; None without a GPU.
    """

    case: Case
    step_bytes: float = 0.0
    rates: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    session_seconds: list[float] = field(default_factory=list)
    session_shares: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    bandwidths: list[float] = field(default_factory=list)
    peak_memory: int | None = None
    device_memory: int | None = None

    @property
    def bounds(self) -> list[float]:
        """Tokens a second that reading alone would allow, at the bandwidth of every repetition."""
        return [self.case.batch * bandwidth / self.step_bytes for bandwidth in self.bandwidths]

    @property
    def bound_shares(self) -> list[float]:
        """The bound's share that every repetition reached."""
        return [rate / bound for rate, bound in zip(self.rates, self.bounds, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """For programs; times are in seconds."""
        case, spread = self.case, _spread
        content = {
            "name": case.name,
            "kind": case.kind,
            "tokens": case.tokens,
            "depth": case.depth,
            "batch": case.batch,
            "tokens_per_second": spread(self.rates),
            "time_per_call" if case.kind == FORWARD else "time_to_first_token": spread(self.first_tokens),
            "session_seconds": spread(self.session_seconds),
            "session_share": spread(self.session_shares),
            "read_bandwidth": spread(self.bandwidths),
            "peak_memory_bytes": self.peak_memory,
            "device_memory_bytes": self.device_memory,
        }
        if case.kind == DECODE:
            content |= {
                "time_per_output_token": _percentiles(self.gaps),
                "session_step": _percentiles(self.steps),
                "bytes_per_step": round(self.step_bytes),
                "bound_tokens_per_second": spread(self.bounds),
                "share_of_bound": spread(self.bound_shares),
            }
        return content


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return Spread(tuple(values)).to_dict()


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": percentile(seconds, 0.50), "p95": percentile(seconds, 0.95)}


@dataclass(frozen=True)
class BenchReport:
    """All that was found.

    Attributes:
        model: What the artifact holds, such as ``exaone4 1.28B``, with the head where it gives no next tokens.
        parameters: Of the model.
        head: What stands on its body, a key of `exaone_export.model.heads.ARCHITECTURES`.
        target: Where it runs.
        precision: Of its products, ``int8/int4`` where prompts have another one than answers.
        size: Bytes of the graph or the engine, with its data.
        max_length: Tokens that a row of its cache holds.
        device: Where it computes.
        threads: Of the session on the CPU.
        repetitions: Of every case, one more not counted.
        prefill_chunk_size: Tokens of a prompt that one step takes at most.
        load_seconds: From an artifact whose hashes hold to a model that is ready.
        verify_seconds: Of computing the hashes.
        weights: Bytes of weights that a step of one row reads.
        results: Of the cases that fit.
        left_out: The cases that do not.
        versions: Of what ran.
    """

    model: str
    parameters: int
    head: str
    target: str
    precision: str
    size: int
    max_length: int
    device: str
    threads: int
    repetitions: int
    prefill_chunk_size: int
    load_seconds: float
    verify_seconds: float
    weights: int
    results: list[Result]
    left_out: list[LeftOut]
    versions: dict[str, str]

    @property
    def decodes(self) -> list[Result]:
        """The results of decoding."""
        return [result for result in self.results if result.case.kind == DECODE]

    @property
    def bandwidth(self) -> Spread:
        """Bytes a second that memory gave, before every repetition of every case."""
        return Spread(tuple(value for result in self.results for value in result.bandwidths))

    def to_dict(self) -> dict[str, Any]:
        """For programs: bytes, seconds, and both of them together."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "head": self.head,
            "target": self.target,
            "precision": self.precision,
            "size_bytes": self.size,
            "max_length": self.max_length,
            "device": self.device,
            "threads": self.threads,
            "repetitions": self.repetitions,
            "prefill_chunk_size": self.prefill_chunk_size,
            "load_seconds": self.load_seconds,
            "verify_seconds": self.verify_seconds,
            "peak_memory_bytes": self.results[-1].peak_memory,
            "weight_bytes_per_step": self.weights,
            "read_bandwidth": self.bandwidth.to_dict(),
            "tests": [result.to_dict() for result in self.results],
            "not_fitting": [{"name": left.case.name, "reason": left.reason} for left in self.left_out],
            "versions": self.versions,
        }
