"""``exaone-export eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .numbers import Count, Real
from .output import say
from .paths import MODEL, PATH, WRITTEN_FILE
from .progress import show_progress
from .trust import trusted_key_option

if TYPE_CHECKING:
    from exaone_export.exporter.evaluate.run import ArtifactEvaluation
    from exaone_export.runtime.parity.evaluation import Scores, Thresholds


@click.command("eval")
@click.argument("artifact", type=PATH)
@click.argument("model", type=MODEL)
@click.option(
    "--data",
    type=PATH,
    required=True,
    metavar="FILE.jsonl",
    help='Prompts {"text": …} or chats {"messages": […]}, one a line; with "answer", if one is expected.',
)
@click.option("--samples", type=Count(min=1), help="The most lines to read.")
@click.option(
    "--seq-length",
    type=Count(min=2),
    default=512,
    show_default=True,
    help="Where a line without an answer is cut, in tokens.",
)
@click.option("--max-kl", type=Real(min=0), help="The mean KL divergence that no slice may exceed, in nats.")
@click.option("--min-accuracy", type=Real(0, 1), help="The share of exact answers that no slice may miss.")
@click.option("--generate/--no-generate", default=True, help="Generate the answers, or compare distributions alone.")
@click.option("--revision", help="Branch, tag or commit, where MODEL is a hub id.")
@click.option("--report", "report_file", type=WRITTEN_FILE, help="Write the result as JSON.")
@click.option("--plot", "plot_file", type=WRITTEN_FILE, help="Draw the slices: .png, .svg, .pdf …")
@trusted_key_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    artifact: Path,
    model: str,
    data: Path,
    samples: int | None,
    seq_length: int,
    max_kl: float | None,
    min_accuracy: float | None,
    generate: bool,
    revision: str | None,
    report_file: Path | None,
    plot_file: Path | None,
    trusted_key: Path | None,
    as_json: bool,
) -> None:
    """Measure what ARTIFACT lost of MODEL: against transformers in float32, on text that it was not calibrated on.

    For every slice of the data: KL divergence and top-1 agreement of the next-token distributions, perplexity, and the
    share of answers that greedy decoding gives exactly. The exit status is 1 where a threshold is missed.
    """
    import transformers

    from exaone_export.exporter.evaluate.plot import check_plot, plot
    from exaone_export.exporter.evaluate.run import evaluate_artifact
    from exaone_export.runtime.parity.evaluation import Thresholds

    if plot_file is not None:
        check_plot(plot_file)
    transformers.utils.logging.disable_progress_bar()  # ours is shown
    with show_progress() as report:
        evaluation = evaluate_artifact(
            artifact,
            model,
            data=data,
            samples=samples,
            seq_length=seq_length,
            revision=revision,
            thresholds=Thresholds(max_kl, min_accuracy),
            generate=generate,
            trusted_key=trusted_key,
            progress=report,
        )
    text = json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    if report_file is not None:
        report_file.write_text(text + "\n", encoding="utf-8")
    if plot_file is not None:
        plot(evaluation, plot_file)
    say(text if as_json else _table(evaluation))
    if not evaluation.result.passed:
        raise click.exceptions.Exit(1)


def _table(evaluation: ArtifactEvaluation) -> str:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    result = evaluation.result
    title = (
        f"{evaluation.target}, {evaluation.precision}, against transformers in float32 (its own figures in brackets)"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("slice", "lines", "tokens", "KL", "99%", "top-1", "perplexity", "exact answers", ""):
        table.add_column(heading, justify="left" if heading in ("slice", "") else "right", no_wrap=True)
    for scores in result.slices:
        table.add_row(*map(escape, _cells(scores, result.thresholds)))
    table.add_section()
    table.add_row(*map(escape, _cells(result.total, result.thresholds)))
    console = Console(width=160, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def _cells(scores: Scores, thresholds: Thresholds) -> list[str]:
    accuracy = "-"
    if scores.accuracy is not None and scores.baseline_accuracy is not None:
        accuracy = f"{scores.accuracy:.1%} ({scores.baseline_accuracy:.1%})"
    missed = thresholds.missed(scores)
    return [
        scores.slice,
        str(scores.samples),
        f"{scores.positions:,}",
        f"{scores.kl:.2e}",
        f"{scores.kl_99:.2e}",
        f"{scores.top1:.1%}",
        f"{scores.perplexity:,.3f} ({scores.baseline_perplexity:,.3f})",
        accuracy,
        f"FAILED --{missed[0].replace('_', '-')}" if missed else "",
    ]
