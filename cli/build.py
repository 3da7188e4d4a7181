"""``exaone-export build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared
from .numbers import Count, Real
from .output import say, tell
from .paths import ARTIFACT, PATH, WRITTEN_FILE
from .progress import show_progress


@click.command("build")
@click.argument("artifact", type=ARTIFACT)
@click.argument("out", type=PATH)
@shared.option("--max-batch", type=Count(min=1), default=1, help="Maximum rows per step.")
@shared.option(
    "--prefill-chunk",
    type=Count(min=1),
    help="Maximum tokens per prefill step (default: what the artifact's cache holds, or 512).",
)
@shared.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    metavar="X.Y",
    help="GPU that the engine must run on, such as 8.9; may be repeated (default: 8.0, 8.6, 8.9 and 12.x for "
    "TensorRT-RTX, this machine's GPU for TensorRT).",
)
@shared.option(
    "--exact-decode",
    is_flag=True,
    help="Add an optimization profile for steps of exactly one token; with one row the engine holds the layers' "
    "weights twice.",
)
@shared.option(
    "--workspace",
    type=Real(0, 1 << 20, min_open=True),
    metavar="GIB",
    help="GPU memory that one kernel may use, in GiB (default: TensorRT's limit).",
)
@shared.option(
    "--timing-cache",
    type=WRITTEN_FILE,
    metavar="FILE",
    help="Keep kernel timings in FILE for the next build; TensorRT only.",
)
@shared.option("--plugin", metavar="MODULE", help="Python module to import, which registers the attention plugin.")
@shared.trusted_key
@shared.sign
@shared.export_options
@shared.json_option()
def command(
    artifact: str,
    out: Path,
    key_file: Path | None,
    overwrite: bool,
    no_plan_check: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the engine of ARTIFACT, exported to a TensorRT target, into the artifact folder OUT.

    Example: exaone-export build out out-engine --max-batch 4
    """
    from exaone_export.exporter.build.destination import check_destination

    if not dry_run:
        check_destination(artifact, out, overwrite=overwrite)
    signing_key = shared.read_signing_key(key_file)

    from exaone_export.exporter.build.engine import build_engine, parse_and_check
    from exaone_export.exporter.build.plan import plan_build
    from exaone_export.exporter.plan.preflight import build_shortfall

    from .describe import as_json_text, as_table
    from .dry_run import refusal, show_dry_run
    from .written import Stopwatch, next_of_artifact, written

    watch, warnings = Stopwatch(), list[str]()
    try:
        with show_progress() as report:
            if dry_run:
                report("parse", 0, 1)
                plan = plan_build(artifact, **options)
                parse_and_check(plan, warnings.append)
                manifest = plan.manifest
            else:
                manifest = build_engine(
                    artifact,
                    out,
                    signing_key=signing_key,
                    overwrite=overwrite,
                    plan_check=not no_plan_check,
                    progress=report,
                    warn=warnings.append,
                    **options,
                )
    finally:
        # After the progress bar, and before the error that they may explain.
        for warning in dict.fromkeys(warnings):
            tell(f"warning: {warning}")
    if dry_run:
        taken = refusal(lambda: check_destination(artifact, out, overwrite=overwrite))
        refusals = [taken, build_shortfall(plan.deployment, out)]
        show_dry_run(plan.deployment, manifest, [], refusals, as_json=as_json)
    elif as_json:
        say(as_json_text(manifest))
    else:
        then = next_of_artifact(out, str(artifact), manifest)
        say(f"{as_table(manifest)}\n\n{written(out, watch.seconds, then)}")
