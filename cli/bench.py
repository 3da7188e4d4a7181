"""``exaone-export bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from exaone_export.artifact.location import check_locatable
from exaone_export.files.images import require_matplotlib

from . import options as shared
from .numbers import Count
from .output import say
from .paths import ARTIFACT
from .progress import show_progress


@click.command("bench")
@click.argument("artifact", type=ARTIFACT)
@shared.option("--prompt", type=Count(min=1), default=512, help="Tokens of the prompt to prefill.")
@shared.option("--new", type=Count(min=2), default=64, help="Tokens to decode.")
@shared.option(
    "--depth",
    "depths",
    type=Count(min=0),
    multiple=True,
    default=(0, 4096, 16384),
    help="Tokens of context before the decoded ones; may be repeated.",
)
@shared.option("--batch", "batches", type=Count(min=1), multiple=True, default=(1, 4), help="Rows; may be repeated.")
@shared.option("--repetitions", type=Count(min=1), default=5, help="Runs of every test, after a warm-up.")
@shared.threads
@shared.graph_options
@shared.image_option("decoding speed against context length")
@shared.trusted_key
@shared.format_option
def command(artifact: str, plot_file: Path | None, form: str, **options: Any) -> None:
    """Measure the speed and memory of ARTIFACT on this machine, and how near it is to the memory's bandwidth.

    Tests are named as in llama-bench: pp512 is a prompt of 512 tokens, tg64 @ d4096 is 64 new tokens after a context of
    4096, b4 is a batch of 4 rows. Tests that do not fit the artifact are listed below the table. A model that generates
    no tokens is called on the prompt.

    Example: exaone-export bench out --depth 0 --batch 1
    """
    if plot_file is not None:
        require_matplotlib()
    check_locatable(artifact)
    graphs = shared.take_graph_choice(options)

    import transformers

    from exaone_export.runtime.bench.plot import plot
    from exaone_export.runtime.bench.run import bench

    from .bench_table import as_table

    transformers.utils.logging.disable_progress_bar()  # ours is shown
    with show_progress(unit="runs") as progress:
        report = bench(artifact, needs_decode=plot_file is not None, progress=progress, graphs=graphs, **options)
    say(json.dumps(report.to_dict(), indent=2) if form == "json" else as_table(report).render(form))
    if plot_file is not None:
        plot(report, plot_file)
