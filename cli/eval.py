"""``exaone-export eval``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.artifact.location import check_locatable
from exaone_export.files.images import require_matplotlib

from . import options as shared
from .numbers import Count, Real
from .output import say
from .paths import ARTIFACT, MODEL, PATH
from .progress import show_progress
from .tables import Column, Table

if TYPE_CHECKING:
    from exaone_export.exporter.evaluate.run import ArtifactEvaluation
    from exaone_export.runtime.parity.evaluation import Scores, Thresholds


@click.command("eval")
@click.argument("artifact", type=ARTIFACT)
@click.argument("model", type=MODEL)
@shared.option(
    "--data",
    type=PATH,
    required=True,
    metavar="FILE.jsonl",
    help='Held-out data, one JSON object per line: {"text": …} or {"messages": […]}, and "answer" if one is expected.',
)
@shared.option("--samples", type=Count(min=1), help="Maximum lines to read (default: all).")
@shared.option(
    "--seq-length",
    type=Count(min=2),
    default=512,
    help="Maximum tokens of a line without an answer; longer ones are cut.",
)
@shared.option("--max-kl", type=Real(min=0), help="Fail if a slice's mean KL divergence, in nats, is larger.")
@shared.option("--min-accuracy", type=Real(0, 1), help="Fail if a slice's share of exact answers is smaller.")
@click.option(
    "--generate/--no-generate",
    default=True,
    help="Generate the answers, or compare distributions only (default: --generate).",
)
@shared.revision
@shared.report_option
@shared.image_option("KL divergence and agreement per slice")
@shared.trusted_key
@shared.format_option
def command(
    artifact: str,
    model: str,
    max_kl: float | None,
    min_accuracy: float | None,
    report_file: Path | None,
    plot_file: Path | None,
    form: str,
    **options: Any,
) -> None:
    """Compare ARTIFACT with MODEL in transformers, in float32, on data that was not used for calibration.

    Shows for every slice of the data the KL divergence and top-1 agreement of the next-token distributions, the
    perplexity, and the share of answers that greedy decoding gives exactly. The exit status is 1 if --max-kl or
    --min-accuracy is missed.

    Example: exaone-export eval out MODEL --data heldout.jsonl --max-kl 0.05
    """
    if min_accuracy is not None and not options["generate"]:
        raise click.UsageError("--min-accuracy needs generated answers; leave --no-generate or --min-accuracy out")
    if plot_file is not None:
        require_matplotlib()
    check_locatable(artifact)

    import transformers

    from exaone_export.exporter.evaluate.plot import plot
    from exaone_export.exporter.evaluate.run import evaluate_artifact
    from exaone_export.runtime.parity.evaluation import Thresholds

    transformers.utils.logging.disable_progress_bar()  # ours is shown
    with show_progress(unit="lines") as report:
        thresholds = Thresholds(max_kl, min_accuracy)
        evaluation = evaluate_artifact(artifact, model, thresholds=thresholds, progress=report, **options)
    text = json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    if report_file is not None:
        report_file.write_text(text + "\n", encoding="utf-8")
    if plot_file is not None:
        plot(evaluation, plot_file)
    say(text if form == "json" else _table(evaluation).render(form))
    if not evaluation.result.passed:
        raise click.exceptions.Exit(1)


def _table(evaluation: ArtifactEvaluation) -> Table:
    result = evaluation.result
    slices = (*result.slices, result.total)
    columns = [
        Column("slice", left=True),
        Column("lines", spare=True),
        Column("tokens", spare=True),
        Column("KL"),
        Column("KL p99", spare=True),
        *map(Column, ("top-1", "perplexity", "exact answers")),
    ]
    rows = [_cells(scores) for scores in slices]
    if result.thresholds != type(result.thresholds)():
        columns.append(Column("verdict", left=True))
        for row, scores in zip(rows, slices, strict=True):
            row.append("FAILED" if result.thresholds.missed(scores) else "passed")
    notes = ["KL: mean divergence of the next token's distribution, in nats; in brackets: figures of transformers."]
    for scores in slices:
        notes += [f"FAILED: {scores.slice}: {why}." for why in _missed(scores, result.thresholds)]
    title = f"{evaluation.target}, {evaluation.precision}, compared with transformers in float32"
    return Table(columns, rows, title, notes)


def _cells(scores: Scores) -> list[str]:
    accuracy = "-"
    if scores.accuracy is not None and scores.baseline_accuracy is not None:
        accuracy = f"{scores.accuracy:.1%} ({scores.baseline_accuracy:.1%})"
    return [
        scores.slice,
        str(scores.samples),
        f"{scores.positions:,}",
        f"{scores.kl:.1e}",
        f"{scores.kl_99:.1e}",
        f"{scores.top1:.1%}",
        f"{_perplexity(scores.perplexity)} ({_perplexity(scores.baseline_perplexity)})",
        accuracy,
    ]


def _perplexity(value: float) -> str:
    """With as many digits as mean something, of a model that knows nothing too."""
    return f"{value:,.3f}" if value < 1e6 else f"{value:.2e}"


def _missed(scores: Scores, thresholds: Thresholds) -> Iterator[str]:
    for name in thresholds.missed(scores):
        found = f"KL {scores.kl:.3g}" if name == "max_kl" else f"accuracy {scores.accuracy:.3g}"
        yield f"{found} misses --{name.replace('_', '-')} {getattr(thresholds, name):g}"
