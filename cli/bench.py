"""``exaone-export bench``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .numbers import THREADS, Count
from .output import say
from .paths import PATH, WRITTEN_FILE
from .progress import show_progress
from .trust import trusted_key_option


def _check_plot(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Say what is wrong with the file before minutes are spent on what it is to show."""
    if path is not None and path.suffix not in (".png", ".svg"):
        raise click.BadParameter(f"{path} is neither a .png nor a .svg file.")
    return path


@click.command("bench")
@click.argument("artifact", type=PATH)
@click.option("--prompt", type=Count(min=1), default=512, show_default=True, help="Tokens to prefill.")
@click.option("--new", type=Count(min=2), default=64, show_default=True, help="Tokens to decode.")
@click.option(
    "--depth",
    "depths",
    type=Count(min=0),
    multiple=True,
    default=(0, 4096, 16384),
    show_default=True,
    help="Tokens of context before them; may be repeated.",
)
@click.option(
    "--batch",
    "batches",
    type=Count(min=1),
    multiple=True,
    default=(1, 4),
    show_default=True,
    help="Rows; may be repeated.",
)
@click.option(
    "--repetitions",
    type=Count(min=1),
    default=5,
    show_default=True,
    help="Of every test, after one that is not counted.",
)
@click.option("--threads", type=THREADS, help="Threads of one operator; the cores by default.")
@click.option(
    "--plot",
    "plot_file",
    type=WRITTEN_FILE,
    callback=_check_plot,
    help="Draw decode against context, as .png or .svg.",
)
@trusted_key_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    artifact: Path,
    prompt: int,
    new: int,
    depths: tuple[int, ...],
    batches: tuple[int, ...],
    repetitions: int,
    threads: int | None,
    plot_file: Path | None,
    trusted_key: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast ARTIFACT runs here: prefill and decode, memory, and the share of what memory's speed allows.

    Tests are named as llama-bench names them: pp512 is a prompt of 512 tokens, tg64 @ d4096 are 64 new tokens behind
    4096, b4 is a batch of 4 rows. What does not fit the artifact is listed.
    """
    import transformers

    from exaone_export.runtime.bench.plot import plot, require_matplotlib
    from exaone_export.runtime.bench.run import bench
    from exaone_export.runtime.bench.table import as_markdown

    if plot_file is not None:
        require_matplotlib()
    transformers.utils.logging.disable_progress_bar()  # ours is shown
    with show_progress() as progress:
        report = bench(
            artifact,
            prompt=prompt,
            new=new,
            depths=depths,
            batches=batches,
            repetitions=repetitions,
            threads=threads,
            trusted_key=trusted_key,
            progress=progress,
        )
    say(json.dumps(report.to_dict(), indent=2) if as_json else as_markdown(report))
    if plot_file is not None:
        plot(report, plot_file)
