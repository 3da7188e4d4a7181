"""One server, asked by more and more clients at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from exaone_export.errors import ArtifactError
from exaone_export.progress import Progress, Step, silent

from .client import Server, ServerError
from .report import Level
from .trace import Asked

__all__ = ["measure_levels"]

_PATH = "/v1/completions"


async def measure_levels(
    server: Server,
    warm_up: Sequence[Asked],
    traces: Sequence[tuple[int, Sequence[Asked]]],
    body: Mapping[str, Any],
    progress: Progress = silent,
) -> list[Level]:
    """Send one trace behind the other, each with its number of clients.

    Args:
        server: With OpenAI's completions.
        warm_up: Requests that are sent before, and not measured.
        traces: Numbers of clients, and the requests that they share.
        body: What all requests say: the model, and that an answer does not end by itself.
        progress: Told how far the work is.

    Raises:
        ArtifactError: The server does not answer the first requests.
    """
    try:
        for asked in warm_up:
            await _ask(server, asked, body, Level(0))
    except ServerError as error:
        raise ArtifactError(
            f"the first request failed ({error}); try one by hand with: exaone-export serve ARTIFACT."
        ) from error
    return [await _level(server, trace, concurrency, body, progress) for concurrency, trace in traces]


async def _level(
    server: Server, trace: Sequence[Asked], concurrency: int, body: Mapping[str, Any], progress: Progress
) -> Level:
    level, left = Level(concurrency), iter(trace)
    step = Step(progress, f"{concurrency} at once", len(trace))
    step(0)

    async def client() -> None:
        for asked in left:
            await asyncio.sleep(asked.pause)
            try:
                await _ask(server, asked, body, level)
            except ServerError as error:
                level.failures.append(str(error))
            step()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    level.seconds = time.perf_counter() - begun
    return level


async def _ask(server: Server, asked: Asked, body: Mapping[str, Any], level: Level) -> None:
    request = {
        **body,
        "prompt": asked.prompt,
        "max_tokens": asked.tokens,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    begun, times, usage = time.perf_counter(), list[float](), dict[str, Any]()
    async for event in server.events(_PATH, request):
        usage = event.get("usage") or usage
        choices = event.get("choices") or ()
        # The end of an answer may come alone, and is no token.
        if choices and (choices[0].get("text") or not choices[0].get("finish_reason")):
            times.append(time.perf_counter())
    level.answers.append(time.perf_counter() - begun)
    if times:
        level.first_tokens.append(times[0] - begun)
    level.gaps += [after - before for before, after in pairwise(times)]
    level.prompt_tokens += usage.get("prompt_tokens", 0)
    level.answer_tokens += usage.get("completion_tokens", asked.tokens)  # no answer ends by itself
