"""What a benchmark found, as a table in the form of llama-bench."""

from __future__ import annotations

from exaone_export.model.heads import CAUSAL_LM
from exaone_export.planning.sizes import format_size
from exaone_export.runtime.bench.cases import FORWARD, PREFILL
from exaone_export.runtime.bench.report import BenchReport, Result, Spread, percentile

from .tables import Column, Table

__all__ = ["as_table"]

_LEFT = ("model", "target", "precision", "test")
_SPARE = ("in session", "peak")


def as_table(report: BenchReport) -> Table:
    """A row for every test; below it what holds for all of them, and what does not fit."""
    rows = [_row(report, result) for result in report.results]
    columns = [Column(name, left=name in _LEFT, spare=name in _SPARE) for name in rows[0]]
    return Table(columns, [list(row.values()) for row in rows], notes=_notes(report), constant=True)


def _row(report: BenchReport, result: Result) -> dict[str, str]:
    return {
        "model": report.model,
        "size": format_size(report.size),
        "target": report.target,
        "precision": report.precision,
        "threads": str(report.threads) if report.device == "cpu" else "-",
        "test": result.case.name,
        "t/s": _spread(result.rates),
        **_times(result),
        "peak": "-" if result.peak_memory is None else format_size(result.peak_memory),
    }


def _times(result: Result) -> dict[str, str]:
    first = f"{1e3 * Spread(tuple(result.first_tokens)).median:.1f}"
    session = _percent(result.session_shares)
    if result.case.kind == FORWARD:
        return {"call ms": first, "in session": session}
    if result.case.kind == PREFILL:
        return {"TTFT ms": first, "TPOT ms p50 / p95": "-", "in session": session, "of bound": "-"}
    gaps = " / ".join(f"{1e3 * percentile(result.gaps, share):.2f}" for share in (0.50, 0.95))
    return {"TTFT ms": "-", "TPOT ms p50 / p95": gaps, "in session": session, "of bound": _percent(result.bound_shares)}


def _notes(report: BenchReport) -> list[str]:
    bandwidth = [value / 2**30 for value in report.bandwidth.values]
    bound = "of bound: share of the speed that the read bandwidth allows"
    if report.head != CAUSAL_LM:
        bound = f"no decode test: a model for {report.head} generates no tokens"
    notes = [
        f"t/s: tokens per second of all rows, median (lowest to highest) of {report.repetitions} runs; {bound}; peak: "
        f"memory of the process so far.",
        f"load {report.load_seconds:.2f} s, hashes {report.verify_seconds:.2f} s; weights read per step "
        f"{format_size(report.weights)}; read bandwidth {_spread(bandwidth)} GiB/s.",
    ]
    on_device = report.results[-1].device_memory
    if on_device is not None:
        notes.append(f"GPU memory in use: {format_size(on_device)}.")
    return notes + [f"does not fit: {left.case.name}: {left.reason}." for left in report.left_out]


def _spread(values: list[float]) -> str:
    """Median (lowest to highest)."""
    ends = (min(values), Spread(tuple(values)).median, max(values))
    low, middle, high = (f"{value:.1f}" if value >= 100 else f"{value:.2f}" for value in ends)
    return f"{middle} ({low} to {high})"


def _percent(shares: list[float]) -> str:
    return f"{100 * Spread(tuple(shares)).median:.0f}%"
