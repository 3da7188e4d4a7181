"""``exaone-export random-checkpoint``."""

from __future__ import annotations

from pathlib import Path

import click

from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.model.config.reading import read_spec
from exaone_export.model.heads import ARCHITECTURES, CAUSAL_LM, CLASSIFICATIONS, MOST_LABELS
from exaone_export.model.published import PUBLISHED
from exaone_export.model.tensors import num_parameters
from exaone_export.targets.precision import FLOATS, canonical

from . import options as shared
from .numbers import Count
from .output import say
from .paths import PATH, PathArgument
from .progress import BYTES, show_progress


@click.command("random-checkpoint")
@click.argument("out", type=PATH)
@shared.option(
    "--shape",
    type=click.Choice(list(PUBLISHED)),
    default="1.2b",
    help="Published size: of EXAONE 4.0, or behind a version.",
)
@shared.option("--layers", type=Count(min=1), help="Write only the first layers (default: all).")
@shared.option(
    "--head",
    type=click.Choice(list(ARCHITECTURES)),
    default=CAUSAL_LM,
    help="Head of the model.",
)
@shared.option(
    "--labels",
    type=Count(min=1, max=MOST_LABELS),
    help="Labels of a classification, named LABEL_0 and so on (default: 2).",
)
@shared.option("--dtype", default="bfloat16", metavar="NAME", help="Type of the weights: bfloat16, float16 or float32.")
@shared.seed("the weights")
@shared.option(
    "--tokenizer",
    type=PathArgument(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Copy the tokenizer and chat template of FOLDER (default: none).",
)
@shared.option(
    "--sparse",
    is_flag=True,
    help="Leave most of the projections' weights as holes in the files, which read as zeros; a 32B then takes 6 GiB.",
)
def command(
    out: Path,
    shape: str,
    layers: int | None,
    head: str,
    labels: int | None,
    dtype: str,
    seed: int,
    tokenizer: Path | None,
    sparse: bool,
) -> None:
    """Write a checkpoint of random weights in a published shape to the folder OUT, for benchmarks and trials.

    Example: exaone-export random-checkpoint random-1.2b --shape 1.2b
    """
    spec = PUBLISHED[shape]
    if layers is not None:
        if layers > spec.num_hidden_layers:
            raise click.BadParameter(
                f"{shape} has {spec.num_hidden_layers} layers; pass that many or fewer", param_hint="--layers"
            )
        spec = spec.with_layers(range(layers))
    if labels is not None and head not in CLASSIFICATIONS:
        raise click.BadParameter(f"{head} has none; pass --head {' or '.join(CLASSIFICATIONS)}", param_hint="--labels")
    if head not in spec.family.heads:
        raise click.BadParameter(
            f"{spec.family.name} has no class for it; pass one of: {', '.join(spec.family.heads)}", param_hint="--head"
        )
    config = spec.to_config() | {"architectures": [spec.family.architecture(head)], "num_labels": labels}
    spec = read_spec(config)
    if canonical(dtype) not in FLOATS:
        raise ConfigError(f"dtype is {dtype!r:.40}; choose --dtype from: {', '.join(FLOATS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not an empty folder; choose another destination.")

    from exaone_export.exporter.checkpoint.random_checkpoint import write_random_checkpoint

    from .written import Stopwatch, command_line, written

    watch = Stopwatch()
    with show_progress({"write": BYTES}) as report:
        write_random_checkpoint(
            out, spec, seed=seed, dtype=dtype, tokenizer_from=tokenizer, sparse=sparse, progress=report
        )
    count = "1 layer" if spec.num_hidden_layers == 1 else f"{spec.num_hidden_layers} layers"
    model = f"{count}, {num_parameters(spec):,} parameters, {canonical(dtype)}"
    say(written(out, watch.seconds, command_line("export", out, f"{out}-onnx"), ("model", model)))
