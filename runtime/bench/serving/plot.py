"""Plots of a server's throughput and latency against how many ask at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exaone_export.files.images import new_figure

from ..report import percentile
from .report import Level, ServingReport

__all__ = ["plot_serving"]

_SHARES = ((0.50, "-"), (0.95, "--"))


def plot_serving(reports: Sequence[ServingReport], path: Path) -> None:
    """Draw a line for every server: tokens a second, time to the first token, and time between tokens.

    Args:
        reports: Of the same trace.
        path: The file, in a format of `exaone_export.files.images.IMAGE_FORMATS`.

    Raises:
        ConfigError: The file's name ends in another format.
        MissingExtraError: Matplotlib is not installed.
    """
    figure = new_figure(path, 12, 4.2)
    rates, firsts, gaps = figure.subplots(1, 3)
    for number, report in enumerate(reports):
        color, levels = f"C{number}", [level for level in report.levels if level.first_tokens]
        counts = [level.concurrency for level in levels]
        rates.plot(counts, [level.rate for level in levels], color=color, marker="o", label=report.server)
        for share, line in _SHARES:
            label = f"{report.server}, p{100 * share:.0f}"
            firsts.plot(counts, _times(levels, "first_tokens", share), color=color, linestyle=line, label=label)
            gaps.plot(counts, _times(levels, "gaps", share), color=color, linestyle=line, label=label)
    for axes, title in ((rates, "tokens per second"), (firsts, "time to first token, ms"), (gaps, "per token, ms")):
        axes.set_title(title)
        axes.set_xlabel("clients at once")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def _times(levels: Sequence[Level], name: str, share: float) -> list[float]:
    """In milliseconds."""
    return [1e3 * percentile(getattr(level, name), share) if getattr(level, name) else 0.0 for level in levels]
