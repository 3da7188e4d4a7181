"""``exaone-export batch``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.artifact.location import check_locatable
from exaone_export.artifact.reader import Artifact
from exaone_export.extras import needs_extra, needs_serve
from exaone_export.model.heads import POOLINGS
from exaone_export.planning.sizes import format_duration
from exaone_export.runtime.serve.loading import Loading
from exaone_export.runtime.serve.settings import Settings

from . import options as shared
from .numbers import Count
from .output import tell
from .paths import ARTIFACT, WRITTEN_FILE, PathArgument
from .progress import show_progress
from .written import Stopwatch

if TYPE_CHECKING:
    from exaone_export.runtime.runner.lookup import Lookup

_MOST_WAITING = 1 << 20
"""Every request of the file may wait."""


@click.command("batch")
@click.argument("artifact", type=ARTIFACT)
@click.argument("in_file", metavar="IN", type=PathArgument(exists=True, dir_okay=False))
@click.argument("out_file", metavar="OUT", type=WRITTEN_FILE)
@shared.option("--model-name", metavar="NAME", help="What requests call the model (default: the folder's name).")
@shared.option("--slots", type=Count(1, 256), default=Loading.slots, help="Answers that are generated at once.")
@shared.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    default=Settings.pooling,
    help="Hidden states: the vector of the last token, or the mean of all.",
)
@shared.option(
    "--ray", "on_ray", is_flag=True, help="Run on Ray Data; the cluster is that of RAY_ADDRESS, if it is set."
)
@shared.option("--replicas", type=Count(1, 1024), help="With --ray: processes that load ARTIFACT (default: 2).")
@shared.lookup
@shared.threads
@shared.graph_options
@shared.batch_graph
@shared.trusted_key
def command(
    artifact: str,
    in_file: Path,
    out_file: Path,
    model_name: str | None,
    slots: int,
    pooling: str,
    on_ray: bool,
    replicas: int | None,
    prompt_lookup: Lookup,
    threads: int | None,
    trusted_key: Path | None,
    **options: Any,
) -> None:
    """Answer the requests in IN with ARTIFACT and write the answers to OUT, in OpenAI's batch form.

    A line of IN is an object with "custom_id", "method", "url" and "body"; all are checked before the model is loaded.
    Answers are appended to OUT as they come, in any order. Run the same command again to go on after an interruption.
    The exit status is 1 if a request was refused or failed: its line in OUT says why. One that failed for a reason that
    may pass, such as want of memory, has no line, and the next run asks it again.

    Example: exaone-export batch out requests.jsonl answers.jsonl
    """
    if replicas is not None and not on_ray:
        raise click.UsageError("--replicas is for --ray; pass both")
    if str(out_file) == "-":
        raise click.UsageError("OUT is -, and answers are appended to a file, which the next run reads; name one")
    folder, graphs = check_locatable(artifact), shared.take_graph_choice(options)
    with needs_serve("batch"):
        from exaone_export.runtime.batch.results import Results
        from exaone_export.runtime.batch.run import Batch, Outcome, run_here
    if on_ray:
        with needs_extra("batch --ray", "ray", "pyarrow", extra="ray"):
            from exaone_export.runtime.batch.on_ray import run_on_ray

    opened = Artifact.open(artifact, trusted_key=trusted_key, weights_later=True)
    name = (artifact if folder is None else folder.resolve().name) if model_name is None else model_name
    source = artifact if folder is None else str(folder.resolve())
    loading = Loading(slots, _MOST_WAITING, threads, graphs, prompt_lookup)
    batch = Batch.read(
        opened, in_file, name, tell, source=source, trusted_key=trusted_key, loading=loading, pooling=pooling
    )
    outcome, clock = Outcome(), Stopwatch()
    with Results(out_file, batch.requests) as results:
        try:
            with show_progress(unit="answers") as progress:
                if on_ray:
                    run_on_ray(batch, results, outcome, replicas=replicas or 2, progress=progress)
                else:
                    run_here(batch, results, outcome, progress)
        except KeyboardInterrupt:
            tell(f"{len(results.answered)} of {len(batch.requests)} answered; run the same command again to go on.")
            raise
        refused = sum(status != 200 for status in results.answered.values())
    seconds = max(clock.seconds, 1e-6)
    count = len(results.answered)
    parts = [f"{out_file}: {count} answer{'' if count == 1 else 's'}"]
    if refused:
        parts.append(f"{refused} of them refused")
    if outcome.answers:
        parts.append(
            f"{outcome.answers} in {format_duration(seconds)}, {outcome.tokens:,} tokens, "
            f"{outcome.tokens / seconds:.1f}/s"
        )
    tell(", ".join(parts))
    if outcome.failed:
        tell(
            f"{outcome.failed} of {len(batch.requests)} requests failed and have no line in {out_file} "
            f"({outcome.reason.rstrip('.')}); run the same command again to try them again."
        )
    sys.exit(1 if refused or outcome.failed else 0)
