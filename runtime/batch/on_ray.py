"""A batch on Ray Data: a pool of processes, each with the artifact and an engine, and one process that writes.

Ray runs a request again whose process has gone; the writer drops an answer that comes twice.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import json
import logging
import threading
from contextlib import ExitStack
from typing import Any

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError
from exaone_export.progress import Progress, Step, silent

from ..serve.ray.cluster import connected
from .answering import answer, opened_app
from .requests import BatchRequest
from .results import Results
from .run import Batch, Outcome, identity_of

__all__ = ["run_on_ray"]

_MOST_BLOCKS = 2000
"""That Ray Data is given; requests of a block are answered one after the other, and written together."""


class _Answerer:
    """The artifact in one process, whose threads share an engine."""

    def __init__(self, artifact: str, trusted_key: str | None, identity: str, **options: Any) -> None:
        opened = Artifact.open(artifact, trusted_key=trusted_key, weights_later=True)
        if identity_of(opened) != identity:
            raise ArtifactError(f"{artifact} is another artifact on this machine; copy it to every machine.")
        self._stack = ExitStack()
        self._app = self._stack.enter_context(opened_app(opened, **options))
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        found: concurrent.futures.Future[tuple[int, Any]] = asyncio.run_coroutine_threadsafe(
            answer(self._app, row["url"], row["body"]), self._loop
        )
        status, body = found.result()
        return {"custom_id": row["custom_id"], "status": status, "body": json.dumps(body)}


def run_on_ray(batch: Batch, results: Results, outcome: Outcome, *, replicas: int, progress: Progress = silent) -> None:
    """As `exaone_export.runtime.batch.run.run_here`, by several processes.

    Args:
        batch: As there, and so are the arguments without a description.
        results: As there.
        outcome: As there.
        replicas: Processes that load the artifact.
        progress: As there.

    Raises:
        ArtifactError: The artifact cannot be read.
        OSError: The disk refused.
        UnsupportedOptionError: There is no Ray cluster.
    """
    left = [request for request in batch.requests.values() if request.custom_id not in results.answered]
    step = Step(progress, "answer", len(batch.requests), len(results.answered))
    if not left:
        return
    progress("load", 0, 1)
    cpus = batch.loading.threads or 1
    with connected(replicas * cpus + 1):
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        pool = ray.data.ActorPoolStrategy(
            size=min(replicas, len(left)),
            max_tasks_in_flight_per_actor=2 * batch.loading.slots,
            max_concurrent_calls_per_actor=2 * batch.loading.slots,
            enable_true_multi_threading=True,
        )
        rows = ray.data.from_items(
            [_row(request) for request in left], override_num_blocks=min(len(left), _MOST_BLOCKS)
        )
        options: dict[str, Any] = {
            "artifact": batch.source,
            "trusted_key": None if batch.trusted_key is None else str(batch.trusted_key.absolute()),
            "identity": identity_of(batch.artifact),
            "model_name": batch.model_name,
            "loading": dataclasses.replace(batch.loading, threads=cpus),
            "pooling": batch.pooling,
        }
        gpus = 0 if batch.artifact.device == "cpu" else 1
        answered = rows.map(_Answerer, compute=pool, fn_constructor_kwargs=options, num_cpus=cpus, num_gpus=gpus)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are told below, and progress by `progress`
        try:
            for row in answered.iter_rows():
                outcome.take(results, batch.requests[row["custom_id"]], row["status"], json.loads(row["body"]))
                step()
        except ray.exceptions.RayError as cause:
            reason = next((line for line in reversed(str(cause).strip().splitlines()) if line.strip()), "no reason")
            raise ArtifactError(
                f"the processes of the batch have failed ({reason.strip():.300}); what was answered stands in the "
                f"output: run it again, without --ray to see more."
            ) from cause


def _row(request: BatchRequest) -> dict[str, Any]:
    return {"custom_id": request.custom_id, "url": request.url, "body": request.body}
