"""From the answers of a request to its response, in whatever form its path writes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from ..core.requests import Request as EngineRequest
from ..text.stream import TextStream
from .answering import Answers
from .answers.writer import Event, Writer
from .errors import ApiError, error_of
from .served import Served, note
from .transport.disconnects import GONE, while_there
from .transport.sse import EventStream

__all__ = ["Prepare", "Prepared", "respond"]


class Prepared(NamedTuple):
    """What a request becomes.

    Attributes:
        requests: One an answer, with what decodes it.
        writer: The form of the answers.
    """

    requests: Sequence[tuple[EngineRequest, TextStream]]
    writer: Writer


Prepare = Callable[[Callable[[], None]], Prepared]
"""Is given the listener of the answers, in a thread that may wait."""


async def respond(
    served: Served, request: Request, prepare: Prepare, *, stream: bool | None, is_constrained: bool
) -> Response:
    """Begin the answers of a request, and write them.

    Args:
        served: The server's parts.
        request: As it came.
        prepare: Makes the requests of the engine.
        stream: Whether they are written as they come.
        is_constrained: Whether a grammar may have to be compiled.

    Raises:
        ApiError: The answers cannot be given, or the client has gone.
        ExaoneExportError: A request is refused.
    """
    answers = Answers(served.generates.engine, asyncio.get_running_loop())
    deadline = served.lifecycle.deadline()

    async def begin() -> Writer:
        work = served.prepare(lambda: _submitted(answers, prepare), is_constrained=is_constrained)
        try:
            return await served.lifecycle.run(work, deadline)
        except (asyncio.CancelledError, ApiError):
            answers.end(ApiError(GONE, "nobody waits for the answer."))  # a thread may submit it still
            raise

    async def whole() -> Response:
        writer = await begin()
        with served.lifecycle.watch(answers, deadline):
            async for _ in _taken(answers, writer):
                pass
        return JSONResponse(writer.whole(served.note_answers(request, answers, writer.tokens)))

    if not stream:
        return await while_there(request.receive, whole())
    writer = await while_there(request.receive, begin())
    return EventStream(_events(served, request, answers, writer, deadline), answers.close)


def _submitted(answers: Answers, prepare: Prepare) -> Writer:
    requests, writer = prepare(answers.listen)
    answers.submit(requests)
    return writer


async def _taken(answers: Answers, writer: Writer) -> AsyncIterator[Event | None]:
    """The events, as they come; None while nothing does."""
    async for news in answers:
        if news is None:
            yield None
            continue
        for event in writer.take(news):
            yield event
        if writer.has_ended(news.index):
            answers.leave(news.index)


async def _events(
    served: Served, request: Request, answers: Answers, writer: Writer, deadline: float
) -> AsyncIterator[Event | None]:
    try:
        with served.lifecycle.watch(answers, deadline):
            for event in writer.begin():
                yield event
            async for taken in _taken(answers, writer):
                yield taken
    except Exception as cause:  # noqa: BLE001 - the status was sent, so that the client is told in an event
        error = error_of(cause)
        note(request, reason=error.code or error.status)
        yield writer.fail(error)
        return
    except (asyncio.CancelledError, GeneratorExit):
        note(request, reason="client_gone")
        raise
    for event in writer.end(served.note_answers(request, answers, writer.tokens)):
        yield event
