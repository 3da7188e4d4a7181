"""``exaone-export parity``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .numbers import SEED, Count
from .output import say
from .paths import MODEL, PATH, WRITTEN_FILE, PathArgument
from .progress import show_progress
from .trust import trusted_key_option

if TYPE_CHECKING:
    from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
    from exaone_export.runtime.parity.compare import Report, Side
    from exaone_export.runtime.parity.polygraphy_results import Verdict


@click.command("parity")
@click.argument("artifact", type=PATH)
@click.argument("model", type=MODEL)
@click.option("--length", "lengths", type=Count(min=1), multiple=True, help="Prompt length; may be repeated.")
@click.option(
    "--prompt",
    "texts",
    multiple=True,
    help="Text to compare on, encoded by each side's own tokenizer; may be repeated, and replaces the default lengths.",
)
@click.option("--tokens", type=Count(min=0), default=64, show_default=True, help="Greedy tokens to compare.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the random prompts.")
@click.option("--locate", is_flag=True, help="Find the first layer that departs.")
@click.option("--report", "report_file", type=WRITTEN_FILE, help="Write the result as JSON.")
@click.option("--record", is_flag=True, help="Write the verdict into the artifact's manifest.")
@click.option(
    "--polygraphy",
    "polygraphy_folder",
    type=PathArgument(file_okay=False),
    metavar="FOLDER",
    help="Hand both sides to Polygraphy: its verdict counts too, and FOLDER gets what its tools read.",
)
@trusted_key_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    artifact: Path,
    model: str,
    lengths: tuple[int, ...],
    texts: tuple[str, ...],
    tokens: int,
    seed: int,
    locate: bool,
    report_file: Path | None,
    record: bool,
    polygraphy_folder: Path | None,
    trusted_key: Path | None,
    as_json: bool,
) -> None:
    """Compare ARTIFACT, and the reference it was traced from, with MODEL in transformers, all on the same prompts.

    Logits are compared at every position, then greedy tokens, and of a --prompt the tokens that transformers' tokenizer
    for MODEL and the artifact's give. The exit status is 1 where a limit is passed or a prompt is encoded differently.
    """
    import transformers

    from exaone_export.artifact.reader import Artifact
    from exaone_export.errors import PromptError
    from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
    from exaone_export.exporter.reference.side import transformers_side
    from exaone_export.runtime.parity import compare as parity
    from exaone_export.runtime.parity import polygraphy_results, sides
    from exaone_export.runtime.parity.prompts import encode_on_both_sides
    from exaone_export.runtime.text.tokenizer import check_vocabulary, load_tokenizer

    if polygraphy_folder is not None:
        polygraphy_results.require_polygraphy()
    transformers.utils.logging.disable_progress_bar()  # ours is shown
    opened = Artifact.open(artifact, trusted_key=trusted_key)
    if record:
        opened.check_recordable()  # before the minutes of the comparison
    checkpoint = Checkpoint.open(model)
    manifest = opened.manifest
    with opened.unchanged():
        encoded = encode_on_both_sides(artifact, checkpoint.folder, checkpoint.spec, texts) if texts else []
        for prompt in encoded:
            check_vocabulary(load_tokenizer(artifact), prompt.input_ids, checkpoint.spec.vocab_size)
    if not lengths and not encoded:
        window = checkpoint.spec.sliding_window or 0
        lengths = tuple(parity.default_lengths(window, manifest.cache["max_length"], tokens))
    longest = max([*lengths, *(len(prompt.tokens) for prompt in encoded)])
    if longest + tokens > manifest.cache["max_length"]:
        raise PromptError(
            f"a prompt of {longest} and {tokens} new tokens do not fit the {manifest.cache['max_length']} tokens "
            f"that the artifact holds: pass a smaller --length or --tokens, or a shorter --prompt."
        )
    openers: dict[str, parity.Opener] = {
        "transformers": lambda: transformers_side(checkpoint),
        "reference": lambda: _reference_side(checkpoint, longest + tokens),
        manifest.target: lambda: sides.artifact_side(opened),
    }
    limits = {"reference": parity.LIMITS["float32"], manifest.target: parity.LIMITS[manifest.precision]}
    prompts = parity.random_prompts(checkpoint.spec.vocab_size, lengths, seed)
    prompts += [prompt.input_ids for prompt in encoded]
    with show_progress() as report:
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
    lines = (_table(result), *(prompt.describe() for prompt in encoded), *map(_verdict, verdicts))
    say(text if as_json else "\n".join(lines))
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


def _table(result: Report) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"against {result.baseline}, float32", title_justify="left")
    for heading in ("side", "prompt", "largest logit difference", "KL", "top-1", "greedy tokens", "first layer", ""):
        table.add_column(heading, justify="left" if heading in ("side", "") else "right")
    for row in result.rows:
        same = row.new_tokens if row.first_difference is None else row.first_difference
        table.add_row(
            row.side,
            str(row.prompt_tokens),
            f"{row.logits:.1e} std",
            f"{row.kl:.1e}",
            f"{row.top1:.1%}",
            f"{same}/{row.new_tokens} the same",
            "-" if row.first_layer is None else str(row.first_layer),
            "passed" if row.passed else "FAILED",
        )
    console = Console(width=110, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _verdict(verdict: Verdict) -> str:
    lines = [f"Polygraphy, {verdict.side} against {verdict.baseline}: {'passed' if verdict.passed else 'FAILED'}"]
    for found in verdict.mismatches:
        departs = "another shape" if found.largest is None else f"{found.largest:.1e} where {found.limit:.1e} may be"
        lines.append(f"  prompt {found.prompt}, {found.result}: {departs}")
    return "\n".join(lines)
