"""``exaone-export parity``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import PromptError

from . import options as shared
from .numbers import Count
from .output import say
from .paths import MODEL, PATH, PathArgument
from .progress import show_progress
from .tables import Column, Table

if TYPE_CHECKING:
    from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
    from exaone_export.runtime.parity.compare import Report, Side
    from exaone_export.runtime.parity.polygraphy_results import Verdict


@click.command("parity")
@click.argument("artifact", type=PATH)
@click.argument("model", type=MODEL)
@shared.option(
    "--length",
    "lengths",
    type=Count(min=1),
    multiple=True,
    help="Tokens of a random prompt; may be repeated (default: lengths on both sides of the window).",
)
@shared.option(
    "--prompt",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="Prompt to compare, encoded by each side's own tokenizer; may be repeated (default: random prompts).",
)
@shared.option("--tokens", type=Count(min=0), default=64, help="Greedy tokens to compare.")
@shared.seed("the random prompts")
@shared.option("--locate", is_flag=True, help="Find the first layer that differs.")
@shared.option("--record", is_flag=True, help="Write the verdict into the artifact's manifest.")
@shared.option(
    "--polygraphy",
    "polygraphy_folder",
    type=PathArgument(file_okay=False),
    metavar="FOLDER",
    help="Compare with Polygraphy as well, and write its files to FOLDER.",
)
@shared.report_option
@shared.trusted_key
@shared.format_option
def command(
    artifact: Path,
    model: str,
    lengths: tuple[int, ...],
    texts: tuple[str, ...],
    tokens: int,
    seed: int,
    locate: bool,
    record: bool,
    polygraphy_folder: Path | None,
    report_file: Path | None,
    trusted_key: Path | None,
    form: str,
) -> None:
    """Compare ARTIFACT, and the PyTorch reference it was traced from, with MODEL in transformers on the same prompts.

    Compared are the logits at every position, greedy tokens and, for every --prompt, the tokens of both tokenizers. The
    exit status is 1 if a difference is larger than its limit, or if a prompt is encoded differently.

    Example: exaone-export parity out MODEL --length 512 --tokens 32
    """
    if polygraphy_folder is not None:
        from exaone_export.runtime.parity.polygraphy_results import require_polygraphy

        require_polygraphy()
    opened = Artifact.open(artifact, trusted_key=trusted_key)
    if record:
        opened.check_recordable()  # before the minutes of the comparison

    import transformers

    from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
    from exaone_export.exporter.reference.side import transformers_side
    from exaone_export.runtime.parity import compare as parity
    from exaone_export.runtime.parity import polygraphy_results, sides
    from exaone_export.runtime.parity.prompts import encode_on_both_sides
    from exaone_export.runtime.text.tokenizer import Tokenizer, check_vocabulary

    transformers.utils.logging.disable_progress_bar()  # ours is shown
    checkpoint = Checkpoint.open(model)
    manifest = opened.manifest
    with opened.unchanged():
        encoded = encode_on_both_sides(artifact, checkpoint.folder, checkpoint.spec, texts) if texts else []
        for prompt in encoded:
            check_vocabulary(Tokenizer.open(artifact), prompt.input_ids, checkpoint.spec.vocab_size)
    if not lengths and not encoded:
        window = checkpoint.spec.sliding_window or 0
        lengths = tuple(parity.default_lengths(window, manifest.cache["max_length"], tokens))
    longest = max([*lengths, *(len(prompt.tokens) for prompt in encoded)])
    if longest + tokens > manifest.cache["max_length"]:
        raise PromptError(
            f"a prompt of {longest} and {tokens} new tokens do not fit the {manifest.cache['max_length']} tokens "
            f"that the artifact holds; pass a smaller --length or --tokens, or a shorter --prompt."
        )
    openers: dict[str, parity.Opener] = {
        "transformers": lambda: transformers_side(checkpoint),
        "reference": lambda: _reference_side(checkpoint, longest + tokens),
        manifest.target: lambda: sides.artifact_side(opened),
    }
    limits = {"reference": parity.LIMITS["float32"], manifest.target: parity.LIMITS[manifest.precision]}
    prompts = parity.random_prompts(checkpoint.spec.vocab_size, lengths, seed)
    prompts += [prompt.input_ids for prompt in encoded]
    with show_progress(unit="prompts") as report:
        collected = parity.collect(openers, prompts, new_tokens=tokens, locate=locate, progress=report)
    result = parity.judge(collected, limits)
    content = result.to_dict()
    if encoded:
        content["prompts"] = [prompt.to_dict() for prompt in encoded]
        content["passed"] = result.passed and all(prompt.passed for prompt in encoded)
    verdicts: list[Verdict] = []
    if polygraphy_folder is not None:
        verdicts = polygraphy_results.hand_over(collected, limits, polygraphy_folder)
        polygraphy_results.save_inputs(prompts, opened, polygraphy_folder)
        content["polygraphy"] = [verdict.to_dict() for verdict in verdicts]
    if record:
        summary = result.summary(manifest.target)
        summary["passed"] = summary["passed"] and all(prompt.passed for prompt in encoded)
        opened.record_parity(summary)
    text = json.dumps(content, indent=2)
    if report_file is not None:
        report_file.write_text(text + "\n")
    notes = [*(prompt.describe() for prompt in encoded), *(line for found in verdicts for line in _verdict(found))]
    say(text if form == "json" else _table(result, notes).render(form))
    if not (content["passed"] and all(verdict.passed for verdict in verdicts)):
        raise click.exceptions.Exit(1)


@contextmanager
def _reference_side(checkpoint: Checkpoint, max_length: int) -> Iterator[Side]:
    from exaone_export.exporter.reference.side import ReferenceSide
    from exaone_export.exporter.reference.weights import load_reference
    from exaone_export.targets.cache_layout import CacheLayout

    # No slack: every row that may leave a window leaves it.
    layout = CacheLayout.plan(checkpoint.spec.layers, max_length, slack=0)
    yield ReferenceSide(load_reference(checkpoint, layout))


def _table(result: Report, notes: Sequence[str]) -> Table:
    rows = []
    for row in result.rows:
        same = row.new_tokens if row.first_difference is None else row.first_difference
        layer = "-" if row.first_layer is None else str(row.first_layer)
        cells = [row.side, f"{row.prompt_tokens:,}", f"{row.logits:.1e}", f"{row.kl:.1e}", f"{row.top1:.1%}"]
        rows.append([*cells, f"{same}/{row.new_tokens}", layer, "passed" if row.passed else "FAILED"])
    names = ("prompt", "logits", "KL", "top-1", "greedy", "layer")
    columns = [Column("side", left=True), *map(Column, names), Column("verdict", left=True)]
    legend = (
        "prompt: tokens; logits: largest difference, in standard deviations; KL: mean divergence, in nats; greedy: "
        "equal tokens; layer: the first that differs (with --locate)."
    )
    return Table(columns, rows, f"compared with {result.baseline} in float32", [legend, *notes])


def _verdict(verdict: Verdict) -> list[str]:
    lines = [f"Polygraphy, {verdict.side} compared with {verdict.baseline}: {'passed' if verdict.passed else 'FAILED'}"]
    for found in verdict.mismatches:
        differs = "another shape" if found.largest is None else f"{found.largest:.1e}, limit {found.limit:.1e}"
        lines.append(f"  prompt {found.prompt}, {found.result}: {differs}")
    return lines
