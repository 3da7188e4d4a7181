"""``exaone-export plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from exaone_export.targets.precision import PRECISIONS
from exaone_export.targets.target import CACHE_PRECISIONS, TARGETS

from .numbers import Count
from .output import say
from .paths import MODEL, WRITTEN_FILE


@click.command("plan")
@click.argument("model", type=MODEL)
@click.option(
    "--max-length",
    type=Count(min=2),
    help="The most tokens, prompt and answer together; the model's own limit by default.",
)
@click.option("--batch", type=Count(min=1), default=1, show_default=True, help="Rows that run at once.")
@click.option("--target", type=click.Choice(list(TARGETS)), default="ort-cpu", show_default=True)
@click.option(
    "--precision",
    help=f"{', '.join(PRECISIONS)}, as far as the target runs it; its first by default.",
)
@click.option("--compute-type", help="What a quantized precision computes in; the target's first by default.")
@click.option("--cache-precision", type=click.Choice(CACHE_PRECISIONS), help="Of the KV cache; the compute type's own.")
@click.option(
    "--prefill-chunk",
    type=Count(min=1),
    help="Tokens of a prompt that one step takes, where the target's caches have room for just so many.",
)
@click.option("--revision", help="Branch, tag or commit, where MODEL is a hub id.")
@click.option("--gpu", metavar="NAME|SIZE", help="Say what fits this GPU: rtx-4090, h100, 24GiB, …")
@click.option(
    "--memory",
    metavar="SIZE",
    help="Say what fits this much of the machine's memory: 24GiB, 64GB, …; for a target that runs on the processor.",
)
@click.option(
    "--plot",
    "plot_file",
    type=WRITTEN_FILE,
    help="Draw memory against context, all layers global beside it, as .png, .svg or .pdf.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, sizes in bytes.")
def command(
    model: str, gpu: str | None, memory: str | None, plot_file: Path | None, as_json: bool, **options: Any
) -> None:
    """Say what an export of MODEL would take in memory and on disk, and what context and batch would fit.

    MODEL is a folder with a config.json, a hub id, of which nothing else is downloaded, or a published size: 1.2b or
    32b. Weights and cache are exact; peaks are estimates.
    """
    from exaone_export.exporter.plan.setting import read_setting, what_fits
    from exaone_export.planning.memory_plan import MemoryPlan

    from .describe_plan import as_plan_json, as_plan_table
    from .memory_plot import check_plot, plot

    if plot_file is not None:
        check_plot(plot_file)
    setting = read_setting(model, **options)
    planned, fits = MemoryPlan.of(setting), what_fits(setting, gpu=gpu, memory=memory)
    if plot_file is not None:
        plot(setting, fits, plot_file)
    say(as_plan_json(planned, fits) if as_json else as_plan_table(planned, fits))
