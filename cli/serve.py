"""``exaone-export serve``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exaone_export.artifact.location import check_locatable
from exaone_export.artifact.reader import Artifact
from exaone_export.extras import needs_extra, needs_serve
from exaone_export.model.heads import POOLINGS
from exaone_export.runtime.serve.loading import Loading
from exaone_export.runtime.serve.settings import KEY_VARIABLE, Settings

from . import options as shared
from .numbers import Count, Real
from .output import tell
from .paths import ARTIFACT, PathArgument

if TYPE_CHECKING:
    from exaone_export.runtime.runner.lookup import Lookup


@click.command("serve")
@click.argument("artifact", type=ARTIFACT)
@shared.option("--host", metavar="ADDRESS", default=Settings.host, help="Address to listen on; others need an API key.")
@shared.option("--port", type=Count(0, 65535), default=Settings.port, help="Port; 0 takes a free one.")
@shared.option("--model-name", metavar="NAME", help="What requests call the model (default: the folder's name).")
@shared.option(
    "--api-key-file",
    type=PathArgument(exists=True, dir_okay=False),
    metavar="FILE",
    help=f"File of API keys, one a line (default: the key in {KEY_VARIABLE}, if it is set).",
)
@shared.option(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Web origin that may use the server from a browser; may be repeated (default: none).",
)
@shared.option("--slots", type=Count(1, 256), default=Loading.slots, help="Answers that are generated at once.")
@shared.option(
    "--queue", type=Count(0, 10_000), default=Loading.queue, help="Requests that may wait; more are refused (429)."
)
@shared.option(
    "--max-body", type=Count(1, 1024), default=Settings.max_body_bytes >> 20, help="Maximum size of a request in MiB."
)
@shared.option("--max-prompt-tokens", type=Count(min=1), help="Maximum tokens of a prompt (default: what fits).")
@shared.option(
    "--request-seconds", type=Real(0.1, 86400), default=Settings.request_seconds, help="Longest time of a request."
)
@shared.option(
    "--grace-seconds",
    type=Real(0, 86400),
    default=Settings.grace_seconds,
    help="Time to finish requests after SIGTERM.",
)
@shared.option(
    "--pooling",
    type=click.Choice(POOLINGS),
    default=Settings.pooling,
    help="Hidden states: the vector of the last token, or the mean of all.",
)
@shared.option("--log-json", is_flag=True, help="Write the log as JSON, an object a line.")
@shared.lookup
@shared.option("--ray", "on_ray", is_flag=True, help="Run replicas on Ray; the cluster is that of RAY_ADDRESS, if set.")
@shared.option("--replicas", type=Count(1, 1024), help="With --ray: processes that load ARTIFACT (default: 2).")
@shared.option("--max-replicas", type=Count(1, 1024), help="With --ray: start up to so many under load.")
@shared.threads
@shared.graph_options
@shared.batch_graph
@shared.trusted_key
def command(
    artifact: str,
    model_name: str | None,
    api_key_file: Path | None,
    slots: int,
    queue: int,
    max_body: int,
    prompt_lookup: Lookup,
    on_ray: bool,
    replicas: int | None,
    max_replicas: int | None,
    threads: int | None,
    trusted_key: Path | None,
    **options: Any,
) -> None:
    """Serve ARTIFACT over HTTP as OpenAI's API does, until SIGTERM or Ctrl-C.

    Example: exaone-export serve out --port 8000
    """
    if not on_ray and (replicas or max_replicas):
        raise click.UsageError("--replicas and --max-replicas are for --ray; pass it too")
    replicas = replicas or 2
    if max_replicas is not None and max_replicas < replicas:
        raise click.UsageError(f"--max-replicas is {max_replicas}, below --replicas, which is {replicas}; raise it")
    folder, graphs = check_locatable(artifact), shared.take_graph_choice(options)
    with needs_serve("serve"):
        from exaone_export.runtime.serve.run import check_served, serve
        from exaone_export.runtime.serve.transport.security import check_keys, read_api_keys

    keys: tuple[str, ...] = ()
    if api_key_file is not None:
        keys = read_api_keys(api_key_file)
    elif (key := os.environ.get(KEY_VARIABLE)) is not None:
        keys = check_keys((key,), KEY_VARIABLE)
    settings = Settings(
        model_name=(artifact if folder is None else folder.resolve().name) if model_name is None else model_name,
        api_keys=keys,
        max_body_bytes=max_body << 20,
        **options,
    )
    opened = Artifact.open(artifact, trusted_key=trusted_key, weights_later=True)

    def started(address: str) -> None:
        tell(f"serving {settings.model_name} at {address}/v1")

    if on_ray:
        with needs_extra("serve --ray", "ray", extra="ray"):
            from exaone_export.runtime.serve.ray.run import serve_on_ray
        check_served(opened)
        serve_on_ray(
            settings,
            started,
            artifact=artifact if folder is None else str(folder.resolve()),
            trusted_key=None if trusted_key is None else str(trusted_key.absolute()),
            slots=slots,
            queue=max(queue, 1),
            threads=threads or 1,
            gpus=0 if opened.device == "cpu" else 1,
            replicas=replicas,
            max_replicas=max_replicas,
            prefill_graph=graphs.prefill,
            prefill_threshold=graphs.threshold,
            batch_graph=graphs.batches,
            prompt_lookup=prompt_lookup,
        )
        return
    serve(opened, settings, Loading(slots, queue, threads, graphs, prompt_lookup), started)
    sys.stdout.flush()
