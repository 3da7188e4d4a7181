"""``exaone-export export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.target import CACHE_PRECISIONS, TARGETS

from .numbers import Count
from .output import say, tell
from .paths import MODEL, PATH
from .progress import show_progress
from .trust import read_signing_key, sign_option


@click.command("export")
@click.argument("model", type=MODEL)
@click.argument("out", type=PATH)
@click.option("--target", type=click.Choice(list(TARGETS)), default="ort-cpu", show_default=True)
@click.option(
    "--precision",
    help=f"{', '.join(PRECISIONS)}, as far as the target runs it; its first by default.",
)
@click.option("--compute-type", help="What a quantized precision computes in; the target's first by default.")
@click.option("--cache-precision", type=click.Choice(CACHE_PRECISIONS), help="Of the KV cache; the compute type's own.")
@click.option(
    "--calibration",
    type=PATH,
    help="The scales file of `exaone-export calibrate`, for a precision that rounds activations.",
)
@click.option(
    "--max-length",
    type=Count(min=2),
    help="The most tokens, prompt and answer together; the model's own limit by default.",
)
@click.option(
    "--prefill-chunk",
    type=Count(min=1),
    help="Tokens of a prompt that one step takes, where the target's caches have room for just so many.",
)
@click.option("--revision", help="Branch, tag or commit, where MODEL is a hub id.")
@sign_option
@click.option("--overwrite", is_flag=True, help="Replace an artifact that stands at OUT.")
@click.option("--no-plan-check", is_flag=True, help="Export even where disk or memory seem too small.")
@click.option(
    "--dry-run", is_flag=True, help="Plan memory and disk, build and verify the graph, say what it is, write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: str,
    out: Path,
    target: str,
    precision: str | None,
    compute_type: str | None,
    cache_precision: str | None,
    calibration: Path | None,
    max_length: int | None,
    prefill_chunk: int | None,
    revision: str | None,
    key_file: Path | None,
    overwrite: bool,
    no_plan_check: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Turn the checkpoint MODEL, a folder in Hugging Face form or a hub id, into the artifact folder OUT.

    Weights pass by a part at a time, so that the model's size does not matter. A run that was killed goes on where it
    was when the same command is given again.
    """
    from exaone_export.exporter import export as pipeline

    from .describe import as_json_text, as_table
    from .dry_run import show_dry_run

    options: dict[str, Any] = {
        "target": target,
        "precision": precision,
        "compute_type": compute_type,
        "cache_precision": cache_precision,
        "calibration": calibration,
        "max_length": max_length,
        "prefill_chunk": prefill_chunk,
        "revision": revision,
    }
    signing_key = read_signing_key(key_file)
    with show_progress() as report:
        if dry_run:
            planned = pipeline.plan_export(model, **options)
            report("trace", 0, 1)
            _, manifest = pipeline.draft(planned)
        else:
            manifest = pipeline.export(
                model,
                out,
                overwrite=overwrite,
                plan_check=not no_plan_check,
                progress=report,
                notice=tell,
                signing_key=signing_key,
                **options,
            )
    if dry_run:
        show_dry_run(planned.setting, manifest, planned.shortfall(out), as_json=as_json)
    else:
        say(as_json_text(manifest) if as_json else as_table(manifest))
