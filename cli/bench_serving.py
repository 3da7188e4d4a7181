"""What ``exaone-export bench --serve`` has found, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from exaone_export.planning.sizes import format_size
from exaone_export.runtime.bench.report import percentile
from exaone_export.runtime.bench.serving.report import Level, ServingReport

from .tables import Column, Table

__all__ = ["as_serving_table"]


def as_serving_table(report: ServingReport) -> Table:
    """A row for every number of clients; below it what holds for all of them."""
    rows = [_row(level, report.levels[0]) for level in report.levels]
    details, trace = report.details, report.trace
    notes = [
        f"{trace['requests']} requests at every number of clients, of up to {trace['prompt']} tokens and "
        f"{trace['new']} new ones (seed {trace['seed']}); t/s: tokens of answers per second, of all clients.",
        f"{details['artifact']}, {details['target']} {details['precision']}, {details['slots']} slots, "
        f"{details['cpus']} CPUs; started in {report.load_seconds or 0:.1f} s"
        + ("." if report.peak_memory is None else f", peak memory {format_size(report.peak_memory)}."),
    ]
    notes += [f"{level.concurrency} at once: {level.failures[0]}." for level in report.levels if level.failures]
    return Table([Column(name) for name in rows[0]], [list(row.values()) for row in rows], notes=notes)


def _row(level: Level, first: Level) -> dict[str, str]:
    return {
        "clients": str(level.concurrency),
        "t/s": f"{level.rate:.1f}",
        "against the first": f"{level.rate / first.rate:.2f}x" if first.rate else "-",
        "TTFT ms p50 / p95": _times(level.first_tokens),
        "TPOT ms p50 / p95": _times(level.gaps),
        "failed": str(len(level.failures)),
    }


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return " / ".join(f"{1e3 * percentile(seconds, share):.1f}" for share in (0.50, 0.95))
