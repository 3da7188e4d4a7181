"""``exaone-export bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from exaone_export.artifact.location import check_locatable
from exaone_export.extras import needs_serve
from exaone_export.files.images import require_matplotlib

from . import options as shared
from .numbers import Count, Real
from .output import say
from .paths import ARTIFACT
from .progress import show_progress

_OF_CASES = ("depths", "batches", "repetitions")
_OF_SERVING = ("concurrencies", "requests", "pause", "seed", "batch_graph")


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
@shared.option("--serve", "over_http", is_flag=True, help="Start exaone-export serve, and measure it over HTTP.")
@shared.option(
    "--concurrency",
    "concurrencies",
    type=Count(1, 256),
    multiple=True,
    default=(1, 2, 4, 8),
    help="With --serve: clients at once; may be repeated.",
)
@shared.option("--requests", type=Count(min=1), default=16, help="With --serve: requests at every concurrency.")
@shared.option("--pause", type=Real(0, 3600), default=0, help="With --serve: a client's mean pause, in seconds.")
@shared.option("--seed", type=Count(min=0), default=0, help="With --serve: seed of lengths, words and pauses.")
@shared.threads
@shared.graph_options
@shared.batch_graph
@shared.image_option("decoding speed against context length, or what --serve measures against concurrency,")
@shared.trusted_key
@shared.format_option
@click.pass_context
def command(
    context: click.Context, artifact: str, plot_file: Path | None, form: str, over_http: bool, **options: Any
) -> None:
    """Measure the speed and memory of ARTIFACT on this machine, and how near it is to the memory's bandwidth.

    Tests are named as in llama-bench: pp512 is a prompt of 512 tokens, tg64 @ d4096 is 64 new tokens after a context of
    4096, b4 is a batch of 4 rows. Tests that do not fit the artifact are listed below the table. A model that generates
    no tokens is called on the prompt.

    With --serve the artifact is served, and asked with prompts of up to --prompt tokens for up to --new tokens by more
    and more clients, each of which sends a request when it has its answer.

    Example: exaone-export bench out --depth 0 --batch 1
    """
    for name in _OF_CASES if over_http else _OF_SERVING:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            flag = next(each.opts[0] for each in context.command.params if each.name == name)
            raise click.UsageError(f"{flag} is {'not for' if over_http else 'for'} --serve; leave it out")
        del options[name]
    if plot_file is not None:
        require_matplotlib()
    check_locatable(artifact)
    graphs = shared.take_graph_choice(options)
    if over_http:
        _bench_serving(artifact, plot_file, form, {**options, "graphs": graphs})
        return

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


def _bench_serving(artifact: str, plot_file: Path | None, form: str, options: dict[str, Any]) -> None:
    with needs_serve("bench --serve"):
        import fastapi  # noqa: F401 - of the server that is started; httpx2 may be there for other packages
        import uvicorn  # noqa: F401

        from exaone_export.runtime.bench.serving.plot import plot_serving
        from exaone_export.runtime.bench.serving.run import bench_serving

    from .bench_serving import as_serving_table

    with show_progress(unit="requests") as progress:
        report = bench_serving(artifact, progress=progress, **options)
    say(json.dumps(report.to_dict(), indent=2) if form == "json" else as_serving_table(report).render(form))
    if plot_file is not None:
        plot_serving([report], plot_file)
