"""A plot of decoding speed against context length, below the bound that memory bandwidth sets."""

from __future__ import annotations

from pathlib import Path

from exaone_export.errors import PromptError
from exaone_export.files.images import new_figure

from .report import BenchReport, Spread


def plot(report: BenchReport, path: Path) -> None:
    """Draw the decode figures: a line for every batch, its lowest and highest as bars, and its bound dashed.

    Args:
        report: With one decode at least.
        path: The file, in a format of `exaone_export.files.images.IMAGE_FORMATS`.

    Raises:
        ConfigError: The file's name ends in another format.
        MissingExtraError: Matplotlib is not installed.
        PromptError: No decode has fitted the artifact.
    """
    if not report.decodes:
        raise PromptError(f"{path} is not drawn, because no decode fits the artifact; pass a smaller --depth or --new.")
    figure = new_figure(path, 7, 4.8)
    axes = figure.add_subplot()
    bandwidth = report.bandwidth.median
    for number, batch in enumerate(sorted({result.case.batch for result in report.decodes})):
        results = [result for result in report.decodes if result.case.batch == batch]
        depths = [result.case.depth for result in results]
        rates = [Spread(tuple(result.rates)).median for result in results]
        below = [rate - min(result.rates) for rate, result in zip(rates, results, strict=True)]
        above = [max(result.rates) - rate for rate, result in zip(rates, results, strict=True)]
        color, rows = f"C{number}", "1 row" if batch == 1 else f"{batch} rows"
        axes.plot(depths, rates, color=color, marker="o", label=rows)
        axes.errorbar(depths, rates, yerr=[below, above], color=color, fmt="none", capsize=3)
        # One bandwidth for the whole run, so that the line shows what the context costs and not the machine's spells.
        # The marker shows a bound at a single depth, where there is no line.
        bounds = [batch * bandwidth / result.step_bytes for result in results]
        label = f"{rows}, bandwidth bound ({bandwidth / 2**30:.1f} GiB/s)"
        axes.plot(depths, bounds, color=color, linestyle="--", marker="_", label=label)
    axes.set_xlabel("context length (tokens per row)")
    axes.set_ylabel("tokens per second, all rows")
    axes.set_xticks(sorted({result.case.depth for result in report.decodes}))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    device = f"{report.threads} threads" if report.device == "cpu" else report.device
    axes.set_title(f"{report.model}, {report.target} {report.precision}, {device}")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=150)
