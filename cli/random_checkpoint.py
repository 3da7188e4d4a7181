"""``exaone-export random-checkpoint``."""

from __future__ import annotations

from pathlib import Path

import click

from exaone_export.targets.precision import canonical

from .numbers import SEED, Count
from .output import say
from .paths import PATH, PathArgument
from .progress import show_progress


@click.command("random-checkpoint")
@click.argument("out", type=PATH)
@click.option("--shape", type=click.Choice(["1.2b", "32b"]), default="1.2b", show_default=True, help="Published size.")
@click.option("--layers", type=Count(min=1), help="Keep only the first layers.")
@click.option("--dtype", default="bfloat16", show_default=True, help="bfloat16, float16 or float32.")
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--tokenizer",
    type=PathArgument(exists=True, file_okay=False),
    help="A folder whose tokenizer and chat template are copied.",
)
@click.option(
    "--sparse", is_flag=True, help="Leave most of the products' weights holes in the files: a 32B takes 6 GB of disk."
)
def command(
    out: Path, shape: str, layers: int | None, dtype: str, seed: int, tokenizer: Path | None, sparse: bool
) -> None:
    """Make the folder OUT: a checkpoint of random weights in a published shape, for benchmarks and trials."""
    from exaone_export.exporter.checkpoint.random_checkpoint import PUBLISHED, write_random_checkpoint

    spec = PUBLISHED[shape]
    if layers is not None:
        if layers > spec.num_hidden_layers:
            raise click.BadParameter(f"{shape} has {spec.num_hidden_layers} layers", param_hint="--layers")
        spec = spec.with_layers(range(layers))
    with show_progress() as report:
        write_random_checkpoint(
            out, spec, seed=seed, dtype=dtype, tokenizer_from=tokenizer, sparse=sparse, progress=report
        )
    say(f"wrote {out}: {spec.num_hidden_layers} layers, {spec.num_parameters:,} parameters, {canonical(dtype)}")
