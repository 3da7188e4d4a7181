"""``exaone-export export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared
from .output import say, tell
from .paths import MODEL, PATH
from .progress import BYTES, show_progress


@click.command("export")
@click.argument("model", type=MODEL)
@click.argument("out", type=PATH)
@shared.target_options
@shared.option(
    "--calibration",
    type=PATH,
    metavar="FILE",
    help="Scales file of `exaone-export calibrate`, for precisions and caches that need one.",
)
@shared.option(
    "--inline",
    is_flag=True,
    help="Replace the attention function's calls by its body, for runtimes that do not expand functions; for the "
    "target onnx.",
)
@shared.sign
@shared.export_options
@shared.json_option()
def command(
    model: str,
    out: Path,
    key_file: Path | None,
    overwrite: bool,
    no_plan_check: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export the checkpoint MODEL, a Hugging Face folder or hub id, to the artifact folder OUT.

    Weights are streamed, so that a model larger than memory can be exported. If an export is interrupted, run the same
    command again to resume it.

    Example: exaone-export export LGAI-EXAONE/EXAONE-4.0-1.2B out --precision int8
    """
    from exaone_export.exporter.plan.options import ExportOptions
    from exaone_export.exporter.plan.request import check_export

    asked = ExportOptions(**options)
    if not dry_run:
        check_export(model, out, asked, overwrite=overwrite)
    signing_key = shared.read_signing_key(key_file)

    from exaone_export.artifact.writer import ArtifactWriter
    from exaone_export.exporter import export as pipeline

    from .describe import as_json_text, as_table
    from .dry_run import refusal, show_dry_run
    from .written import Stopwatch, next_of_artifact, written

    watch = Stopwatch()
    with show_progress({"write": BYTES, "check range": "layers"}) as report:
        if dry_run:
            planned = pipeline.plan_export(model, asked)
            report("trace", 0, 1)
            _, manifest = pipeline.draft(planned)
        else:
            manifest = pipeline.export(
                model,
                out,
                asked,
                overwrite=overwrite,
                plan_check=not no_plan_check,
                progress=report,
                notice=tell,
                signing_key=signing_key,
            )
    if dry_run:
        refusals = [refusal(lambda: ArtifactWriter(out, overwrite).check()), planned.shortfall(out)]
        show_dry_run(planned.deployment, manifest, [*planned.remarks()], refusals, as_json=as_json)
    elif as_json:
        say(as_json_text(manifest))
    else:
        say(f"{as_table(manifest)}\n\n{written(out, watch.seconds, next_of_artifact(out, model, manifest))}")
