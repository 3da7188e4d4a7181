"""``exaone-export parity``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import CheckpointError, ConfigError, PromptError
from exaone_export.model.heads import CAUSAL_LM, HIDDEN_STATES

from . import options as shared
from .numbers import Count
from .output import say
from .paths import ARTIFACT, MODEL, PathArgument
from .progress import show_progress
from .tables import Column, Table

if TYPE_CHECKING:
    from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
    from exaone_export.runtime.parity.compare import Report, Side
    from exaone_export.runtime.parity.polygraphy_results import Verdict

_TOKENS = 64


@click.command("parity")
@click.argument("artifact", type=ARTIFACT)
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
@shared.option(
    "--tokens",
    type=Count(min=0),
    help="Greedy tokens to compare (default: 64, or 0 if the head generates none).",
)
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
    artifact: str,
    model: str,
    lengths: tuple[int, ...],
    texts: tuple[str, ...],
    tokens: int | None,
    seed: int,
    locate: bool,
    record: bool,
    polygraphy_folder: Path | None,
    report_file: Path | None,
    trusted_key: Path | None,
    form: str,
) -> None:
    """Compare ARTIFACT, and the PyTorch reference it was traced from, with MODEL in transformers on the same prompts.

    Compared are the outputs of the model's head at every position, greedy tokens where it generates them and, for every
    --prompt, the tokens of both tokenizers. The exit status is 1 if a difference is larger than its limit, or if a
    prompt is encoded differently.

    Example: exaone-export parity out MODEL --length 512 --tokens 32
    """
    if polygraphy_folder is not None:
        from exaone_export.runtime.parity.polygraphy_results import require_polygraphy

        require_polygraphy()
    opened = Artifact.open(artifact, trusted_key=trusted_key)
    if record:
        opened.check_recordable()  # before the minutes of the comparison
    head = opened.spec.head
    if tokens and not head.is_causal_lm:
        raise PromptError(
            f"--tokens is {tokens}, and {opened.spec.architecture} generates no tokens; leave --tokens out."
        )
    tokens = tokens if tokens is not None else _TOKENS if head.is_causal_lm else 0

    import transformers

    from exaone_export.exporter.reference.side import transformers_side
    from exaone_export.runtime.mirror.pretrained import check_gpu
    from exaone_export.runtime.parity import compare as parity
    from exaone_export.runtime.parity import polygraphy_results, sides
    from exaone_export.runtime.parity.prompts import encode_on_both_sides
    from exaone_export.runtime.text.tokenizer import Tokenizer, check_vocabulary

    check_gpu(opened)  # likewise
    transformers.utils.logging.disable_progress_bar()  # ours is shown
    checkpoint = _open_checkpoint(model, opened)
    manifest = opened.manifest
    with opened.unchanged():
        encoded = encode_on_both_sides(opened.folder, checkpoint.folder, checkpoint.spec, texts) if texts else []
        for prompt in encoded:
            check_vocabulary(Tokenizer.open(opened.folder), prompt.input_ids, checkpoint.spec.vocab_size)
    if not lengths and not encoded:
        window = max(layer.window for layer in checkpoint.spec.layers)
        lengths = tuple(parity.default_lengths(window, manifest.cache["max_length"], tokens))
    longest = max([*lengths, *(len(prompt.tokens) for prompt in encoded)])
    if longest + tokens > manifest.cache["max_length"]:
        what = f"a prompt of {longest} and {tokens} new tokens do" if tokens else f"a prompt of {longest} tokens does"
        raise PromptError(
            f"{what} not fit the {manifest.cache['max_length']} tokens that the artifact holds; pass a smaller --length"
            f"{' or --tokens' if tokens else ''}, or a shorter --prompt."
        )
    openers: dict[str, parity.Opener] = {
        "transformers": lambda: transformers_side(checkpoint),
        "reference": lambda: _reference_side(checkpoint, longest + tokens),
        manifest.target: lambda: sides.artifact_side(opened),
    }
    limits = {"reference": parity.LIMITS["float32"], manifest.target: parity.LIMITS[manifest.precision]}
    if (of_prompts := opened.of_prompts) is not None:
        name = f"{manifest.target}-prompts"
        openers[name] = lambda: sides.artifact_side(of_prompts)
        limits[name] = parity.LIMITS[of_prompts.manifest.precision]
    prompts = parity.random_prompts(checkpoint.spec.vocab_size, lengths, seed)
    prompts += [prompt.input_ids for prompt in encoded]
    with show_progress(unit="prompts") as report:
        collected = parity.collect(openers, prompts, new_tokens=tokens, locate=locate, progress=report)
    result = parity.judge(collected, limits, head)
    content = result.to_dict()
    if encoded:
        content["prompts"] = [prompt.to_dict() for prompt in encoded]
        content["passed"] = result.passed and all(prompt.passed for prompt in encoded)
    verdicts: list[Verdict] = []
    if polygraphy_folder is not None:
        verdicts = polygraphy_results.hand_over(
            collected, limits, polygraphy_folder, is_causal_lm=opened.spec.head.is_causal_lm
        )
        polygraphy_results.save_inputs(prompts, opened, polygraphy_folder)
        content["polygraphy"] = [verdict.to_dict() for verdict in verdicts]
    if record:
        summary = result.summary(manifest.target)
        if of_prompts is not None:
            summary["prompts"] = result.summary(name)
        summary["passed"] = result.passed and all(prompt.passed for prompt in encoded)
        opened.record_parity(summary)
    text = json.dumps(content, indent=2, allow_nan=False)
    if report_file is not None:
        report_file.write_text(text + "\n")
    notes = [*(prompt.describe() for prompt in encoded), *(line for found in verdicts for line in _verdict(found))]
    say(text if form == "json" else _table(result, head.kind, notes).render(form))
    if not (content["passed"] and all(verdict.passed for verdict in verdicts)):
        raise click.exceptions.Exit(1)


def _open_checkpoint(model: str, artifact: Artifact) -> Checkpoint:
    """The checkpoint under the artifact's head, refused where the two cannot be compared."""
    from exaone_export.exporter.checkpoint.checkpoint import Checkpoint

    spec, exported = artifact.spec, "give the checkpoint that the artifact was exported from."
    try:
        checkpoint = Checkpoint.open(model, head=spec.head.kind, hidden_states=spec.head.hidden_states)
    except ConfigError as error:
        other = Checkpoint.open(model)  # raises what has nothing to do with the head
        raise CheckpointError(
            f"{other.name} is a checkpoint of {other.spec.architecture}, and the artifact is of "
            f"{spec.architecture}; {exported}"
        ) from error
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "head_size"):
        found, wanted = getattr(checkpoint.spec, name), getattr(spec, name)
        if found != wanted:
            name = "num_labels" if name == "head_size" else name
            raise CheckpointError(f"{checkpoint.name} has {name} {found}, and the artifact has {wanted}; {exported}")
    return checkpoint


@contextmanager
def _reference_side(checkpoint: Checkpoint, max_length: int) -> Iterator[Side]:
    from exaone_export.exporter.reference.side import ReferenceSide
    from exaone_export.exporter.reference.weights import load_reference
    from exaone_export.targets.cache_layout import CacheLayout

    # No slack: every row that may leave a window leaves it.
    layout = CacheLayout.plan(checkpoint.spec.layers, max_length, slack=0)
    yield ReferenceSide(load_reference(checkpoint, layout))


def _table(result: Report, kind: str, notes: Sequence[str]) -> Table:
    rows = []
    for row in result.rows:
        same = row.new_tokens if row.first_difference is None else row.first_difference
        layer = "-" if row.first_layer is None else str(row.first_layer)
        cells = [row.side, f"{row.prompt_tokens:,}", f"{row.logits:.1e}"]
        cells += ["-" if row.kl is None else f"{row.kl:.1e}", "-" if row.top1 is None else f"{row.top1:.1%}"]
        greedy = f"{same}/{row.new_tokens}" if row.new_tokens or kind == CAUSAL_LM else "-"
        rows.append([*cells, greedy, layer, "passed" if row.passed else "FAILED"])
    compared = "states" if kind == HIDDEN_STATES else "logits"
    names = ("prompt", compared, "KL", "top-1", "greedy", "layer")
    columns = [Column("side", left=True), *map(Column, names), Column("verdict", left=True)]
    legend = (
        f"prompt: tokens; {compared}: largest difference, in standard deviations; KL: mean divergence, in nats; "
        f"greedy: equal tokens; layer: the first that differs (with --locate)."
    )
    return Table(columns, rows, f"compared with {result.baseline} in float32", [legend, *notes])


def _verdict(verdict: Verdict) -> list[str]:
    lines = [f"Polygraphy, {verdict.side} compared with {verdict.baseline}: {'passed' if verdict.passed else 'FAILED'}"]
    for found in verdict.mismatches:
        differs = "another shape" if found.largest is None else f"{found.largest:.1e}, limit {found.limit:.1e}"
        lines.append(f"  prompt {found.prompt}, {found.result}: {differs}")
    return lines
