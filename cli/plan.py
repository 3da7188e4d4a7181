"""``exaone-export plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared
from .numbers import Count
from .output import say, tell
from .paths import MODEL


@click.command("plan")
@click.argument("model", type=MODEL)
@shared.target_options
@shared.option("--batch", type=Count(min=1), default=1, help="Rows that run at once.")
@shared.option("--gpu", metavar="NAME|SIZE", help="Show what fits this GPU: rtx-4090, h100, 24GiB, …")
@shared.option(
    "--memory", metavar="SIZE", help="Show what fits this much of the machine's memory, such as 24GiB; for CPU targets."
)
@shared.image_option("memory against context length")
@shared.json_option("plan, sizes in bytes,")
def command(
    model: str, gpu: str | None, memory: str | None, plot_file: Path | None, as_json: bool, **options: Any
) -> None:
    """Estimate the memory and disk that an export of MODEL needs, and the context and batch that fit.

    MODEL is a folder with a config.json, a hub id (only its config.json is downloaded), or a published size, such as
    1.2b or 3.5-7.8b. Weights and cache are exact; peaks are estimates.

    Example: exaone-export plan 1.2b --precision int8 --max-length 8192 --memory 8GiB
    """
    from exaone_export.exporter.plan.deployment import read_deployment, what_fits
    from exaone_export.files.images import require_matplotlib
    from exaone_export.planning.memory_plan import MemoryPlan

    from .describe_plan import as_plan_json, as_plan_table
    from .memory_plot import plot

    if plot_file is not None:
        require_matplotlib()
    deployment = read_deployment(model, notice=tell, **options)
    planned, fits = MemoryPlan.of(deployment), what_fits(deployment, gpu=gpu, memory=memory)
    if plot_file is not None:
        plot(deployment, fits, plot_file)
    say(as_plan_json(planned, fits) if as_json else as_plan_table(planned, fits))
