"""Measure ``exaone-export serve`` of an artifact: a process of its own, asked over HTTP."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, PromptError
from exaone_export.planning.machine import logical_cores
from exaone_export.progress import Progress, silent

from ...runner.defaults import read_defaults
from ...runner.eligible import check_runs_here
from ...runner.runner import open_tokenizer
from ...sessions.prefill.choice import BOTH, GraphChoice
from ..memory import peak_memory
from .client import Server
from .measure import measure_levels
from .report import ServingReport
from .trace import Asked, make_trace

__all__ = ["bench_serving", "started"]

_MODEL = "model"
_READY = re.compile(r"^serving .* at (http://\S+)/v1$", re.MULTILINE)
_BIAS = -100


def bench_serving(
    artifact: str | Path,
    *,
    prompt: int = 512,
    new: int = 64,
    concurrencies: Sequence[int] = (1, 2, 4, 8),
    requests: int = 16,
    pause: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
    graphs: GraphChoice = BOTH,
    trusted_key: Path | None = None,
    progress: Progress = silent,
) -> ServingReport:
    """Serve an artifact, and ask it with more and more clients at once.

    Args:
        artifact: A folder, or an artifact on the Hugging Face hub.
        prompt: The most tokens of a prompt.
        new: The most tokens of an answer.
        concurrencies: Numbers of clients; the server has as many slots as the largest of them.
        requests: At every number of clients.
        pause: Seconds that a client waits between its requests, the mean.
        seed: Of the trace.
        threads: Threads that one operator may use.
        graphs: Which are loaded and run which steps, where there is one of its own for prompts.
        trusted_key: The public key that must have signed the artifact.
        progress: Told how far the work is.

    Raises:
        ArtifactError: The artifact cannot be read or served, or generates no text.
        PromptError: A prompt and its answer do not fit it.
    """
    opened = Artifact.open(artifact, trusted_key=trusted_key, weights_later=True)
    check_runs_here(opened)
    graphs.check(opened)
    holds = opened.manifest.cache["max_length"]
    if prompt + new > holds:
        raise PromptError(
            f"a prompt of {prompt} tokens and {new} new ones do not fit the {holds} that the artifact holds; pass "
            f"smaller --prompt and --new."
        )
    tokenizer = open_tokenizer(opened)
    shape = {"prompt": prompt, "new": new, "pause": pause, "seed": seed}

    def make(count: int, first: int = 0) -> Sequence[Asked]:
        return make_trace(count, **shape, length=lambda text: len(tokenizer.encode(text)), first=first)  # type: ignore[arg-type]

    traces = [(clients, make(requests, first=number * requests)) for number, clients in enumerate(concurrencies, 1)]
    # An answer that ended by itself would be of another length on another server.
    stop_ids = read_defaults(opened).stop_ids
    body = {"model": _MODEL, "logit_bias": {str(token): _BIAS for token in stop_ids}}
    slots = max(concurrencies)
    options = ["--slots", str(slots), "--queue", "1000", "--model-name", _MODEL]
    options += [] if threads is None else ["--threads", str(threads)]
    options += [] if graphs.prefill else ["--no-prefill-graph"]
    options += [] if graphs.threshold is None else ["--prefill-threshold", str(graphs.threshold)]
    options += ["--batch-graph"] if graphs.batches else []
    options += [] if trusted_key is None else ["--verify", str(trusted_key)]
    progress("load", 0, 1)
    begun = time.perf_counter()
    with started(str(artifact), *options) as (process, server):
        loaded = time.perf_counter() - begun
        levels = asyncio.run(measure_levels(server, make(min(requests, 2)), traces, body, progress))
        peak = peak_memory(process.pid)
    details = {
        "artifact": opened.folder.name,
        "target": opened.manifest.target,
        "precision": opened.manifest.precision,
        "slots": slots,
        "threads": threads,
        "cpus": logical_cores(),
    }
    return ServingReport("exaone-export serve", levels, {"requests": requests, **shape}, details, peak, loaded)


@contextmanager
def started(artifact: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Server]]:
    """A server's process, which ends with the block.

    Args:
        artifact: What it serves.
        options: Of ``exaone-export serve``.

    Raises:
        ArtifactError: It does not start; the message is its own.
    """
    command = [sys.executable, "-m", "exaone_export", "serve", artifact, "--port", "0", *options]
    environment = {name: value for name, value in os.environ.items() if name != "EXAONE_EXPORT_API_KEY"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield process, Server(_address(process, log.fileno()))
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: int) -> str:
    while True:
        ended = process.poll() is not None
        text = os.pread(log, 1 << 16, 0).decode(errors="replace")
        if (found := _READY.search(text)) is not None:
            return found[1]
        if ended:
            message = text.strip().splitlines()[-1:] or ["no message"]
            raise ArtifactError(f"the server did not start: {message[0].removeprefix('error: ')}")
        time.sleep(0.02)
