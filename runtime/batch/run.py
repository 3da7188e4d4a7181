"""A batch on this machine: as many requests at once as keep every slot of the engine busy."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from exaone_export.artifact.reader import Artifact
from exaone_export.progress import Notice, Progress, Step, silent

from ..serve.loading import Loading
from ..serve.run import check_served
from .answering import answer, opened_app
from .requests import BatchRequest, read_requests
from .results import Results

__all__ = ["Batch", "Outcome", "identity_of", "run_here"]


@dataclass(frozen=True)
class Batch:
    """What is answered, and by what.

    Attributes:
        artifact: The opened artifact.
        model_name: What requests call the model.
        requests: By their ``custom_id``.
        source: Where other processes open the artifact: its folder, or its name on the hub.
        loading: How it is loaded.
        trusted_key: The public key that must have signed it.
        pooling: Of vectors: of the ``last`` token, or the ``mean`` of all.
    """

    artifact: Artifact
    model_name: str
    requests: dict[str, BatchRequest]
    source: str
    loading: Loading
    trusted_key: Path | None = None
    pooling: str = "last"

    @classmethod
    def read(cls, artifact: Artifact, path: Path, model_name: str, notice: Notice, **options: Any) -> Batch:
        """The batch of a file, checked; see `read_requests`.

        Raises:
            ArtifactError: The artifact's head is neither for text nor for vectors.
            BatchError: A line cannot be run.
        """
        check_served(artifact)
        identity, head = identity_of(artifact), artifact.spec.head.kind
        requests = read_requests(path, head=head, artifact=identity, model_name=model_name, notice=notice)
        return cls(artifact, model_name, requests, **options)


_PASSING = (429, 503, 504)
"""Statuses of failures that another run may not meet, such as want of memory."""


@dataclass
class Outcome:
    """What a run has answered.

    Attributes:
        answers: That this run has written.
        tokens: Of prompts and answers.
        failed: Requests that have no answer, maybe through no fault of theirs.
        reason: Why the last of them has none.
    """

    answers: int = 0
    tokens: int = 0
    failed: int = 0
    reason: str = ""

    def take(self, results: Results, request: BatchRequest, status: int, body: Any, *, was_alone: bool = False) -> None:
        """Write and count an answer; a failure that may pass is not one, so that another run asks again.

        Args:
            results: Where it is written.
            request: What is answered.
            status: Of HTTP.
            body: JSON.
            was_alone: Whether no other request can have made this one fail.

        Raises:
            OSError: The disk refused.
        """
        if status in _PASSING or (status >= 500 and not was_alone):
            self.failed, self.reason = self.failed + 1, body["error"]["message"]
            return
        results.write(request, status, body)
        self.answers += 1
        if status == 200:
            self.tokens += body["usage"]["total_tokens"]


def identity_of(artifact: Artifact) -> str:
    """Sha256 of the hashes of all files, with which an answer may change."""
    hashes = {name: each["sha256"] for name, each in artifact.manifest.files.items()}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def run_here(batch: Batch, results: Results, outcome: Outcome, progress: Progress = silent) -> None:
    """Answer what has no answer yet; what fails is asked again alone, and a second failure is its answer.

    An interruption ends it; what was written stays, and another run goes on from there.

    Args:
        batch: Of `Batch.read`.
        results: Where answers are written as they come.
        outcome: Counts them.
        progress: Told how far the work is.

    Raises:
        ArtifactError: The artifact cannot be read.
        OSError: The disk refused.
        TargetError: The artifact does not run here.
    """
    left = [request for request in batch.requests.values() if request.custom_id not in results.answered]
    step = Step(progress, "answer", len(batch.requests), len(results.answered))
    if not left:
        return
    progress("load", 0, 1)
    with opened_app(batch.artifact, batch.model_name, batch.loading, batch.pooling) as app:
        step(0)

        async def write() -> None:
            failed = list[BatchRequest]()
            async for request, status, body in _answers(app, left, 2 * batch.loading.slots):
                if status == 500:  # maybe by another one that was in the same step
                    failed.append(request)
                    continue
                outcome.take(results, request, status, body)
                step()
            async for request, status, body in _answers(app, failed, 1):
                outcome.take(results, request, status, body, was_alone=True)
                step()

        asyncio.run(write())


async def _answers(
    app: ASGIApp, requests: Iterable[BatchRequest], most: int
) -> AsyncIterator[tuple[BatchRequest, int, Any]]:
    """Answers as they come, ``most`` requests under way: more than there are slots, so that none waits for a prompt."""

    async def one(request: BatchRequest) -> tuple[BatchRequest, int, Any]:
        return request, *await answer(app, request.url, request.body)

    waiting, running = iter(requests), set[asyncio.Task[tuple[BatchRequest, int, Any]]]()
    try:
        while True:
            while len(running) < most and (request := next(waiting, None)) is not None:
                running.add(asyncio.ensure_future(one(request)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
