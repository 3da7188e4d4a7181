"""``exaone-export build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .numbers import Count, Real
from .output import say, tell
from .paths import PATH, WRITTEN_FILE
from .progress import show_progress
from .trust import read_signing_key, sign_option, trusted_key_option


@click.command("build")
@click.argument("artifact", type=PATH)
@click.argument("out", type=PATH)
@click.option("--max-batch", type=Count(min=1), default=1, show_default=True, help="The most rows of a step.")
@click.option(
    "--prefill-chunk",
    type=Count(min=1),
    help="The most tokens of a step; as many as the artifact's caches take by default, 512 where they have no limit.",
)
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    metavar="X.Y",
    help="A GPU that the engine must run on, 8.9 for one; may be given again. TensorRT-RTX serves 8.0, 8.6, 8.9 "
    "and 12.x by default, TensorRT builds for the GPU that it runs on.",
)
@click.option(
    "--exact-decode",
    is_flag=True,
    help="Choose the kernels of decoding for exactly one token; for one row the engine then holds the layers' weights "
    "twice.",
)
@click.option(
    "--workspace",
    type=Real(0, 1 << 20, min_open=True),
    metavar="GIB",
    help="GPU memory that a kernel may take for itself; TensorRT's own limit by default.",
)
@click.option(
    "--timing-cache",
    type=WRITTEN_FILE,
    help="A file that keeps kernel timings from one build to the next. TensorRT only.",
)
@click.option("--plugin", metavar="MODULE", help="A Python module to import, which registers the attention's plugin.")
@click.option("--overwrite", is_flag=True, help="Replace an artifact that stands at OUT.")
@click.option("--no-plan-check", is_flag=True, help="Build even where disk or memory seem too small.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Plan memory and disk, parse and check the graph, say what would be built, write nothing.",
)
@trusted_key_option
@sign_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    artifact: Path,
    out: Path,
    key_file: Path | None,
    overwrite: bool,
    no_plan_check: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the engine of ARTIFACT, which an export to a TensorRT target has written, into the artifact folder OUT."""
    from exaone_export.exporter.build.engine import build_engine, parse_and_check
    from exaone_export.exporter.build.plan import plan_build
    from exaone_export.exporter.plan.preflight import build_shortfall

    from .describe import as_json_text, as_table
    from .dry_run import show_dry_run

    signing_key = read_signing_key(key_file)
    warnings: list[str] = []
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
        # Behind the progress bar, and before the error that they may explain.
        for warning in dict.fromkeys(warnings):
            tell(f"warning: {warning}")
    if dry_run:
        show_dry_run(plan.setting, manifest, build_shortfall(plan.setting, out), as_json=as_json)
        return
    say(as_json_text(manifest) if as_json else as_table(manifest))
