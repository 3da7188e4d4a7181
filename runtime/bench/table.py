"""What was found, as Markdown in the form of llama-bench."""

from __future__ import annotations

from .report import BenchReport, Result, Spread, percentile

_LEFT = ("model", "target", "precision", "test")


def as_markdown(report: BenchReport) -> str:
    """A table with a line for every case, what holds for all of them, and what was left out."""
    rows = [_row(report, result) for result in report.results]
    headings = list(rows[0])
    lines = [headings, ["---" if name in _LEFT else "---:" for name in headings], *(list(row.values()) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, "", *_notes(report)])


def _row(report: BenchReport, result: Result) -> dict[str, str]:
    decoding = bool(result.gaps)
    tokens = "-"
    if decoding:
        tokens = " / ".join(f"{1e3 * percentile(result.gaps, share):.2f}" for share in (0.50, 0.95))
    share = _percent(result.bound_shares) if decoding else "-"
    return {
        "model": report.model,
        "size": _size(report.size),
        "target": report.target,
        "precision": report.precision,
        "threads": str(report.threads) if report.device == "cpu" else "-",
        "test": result.case.name,
        "t/s": spread_of(result.rates),
        "TTFT ms": "-" if decoding else f"{1e3 * Spread(tuple(result.first_tokens)).median:.1f}",
        "TPOT ms p50 / p95": tokens,
        "in session": _percent(result.session_shares),
        "of bound": share,
        "peak": "-" if result.peak_memory is None else _size(result.peak_memory),
    }


def _notes(report: BenchReport) -> list[str]:
    bandwidth = [value / 1e9 for value in report.bandwidth.values]
    notes = [
        f"t/s: of all rows, median (lowest to highest) of {report.repetitions}; peak: memory of the process, up to "
        f"the end of the test.",
        f"load {report.load_seconds:.2f} s, hashes {report.verify_seconds:.2f} s; weights read a step "
        f"{_size(report.weights)}; read bandwidth {spread_of(bandwidth)} GB/s.",
    ]
    on_device = report.results[-1].device_memory
    if on_device is not None:
        notes.append(f"GPU memory in use: {_size(on_device)}.")
    return notes + [f"not fitting: {left.case.name}: {left.reason}." for left in report.left_out]


def spread_of(values: list[float]) -> str:
    """Median (lowest to highest)."""
    low, middle, high = (f"{value:.2f}" for value in (min(values), Spread(tuple(values)).median, max(values)))
    return f"{middle} ({low} to {high})"


def _percent(shares: list[float]) -> str:
    return f"{100 * Spread(tuple(shares)).median:.0f}%"


def _size(count: float) -> str:
    for unit, bytes_in_unit in (("GB", 1e9), ("MB", 1e6)):
        if count >= bytes_in_unit:
            return f"{count / bytes_in_unit:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"
