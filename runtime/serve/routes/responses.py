"""``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from exaone_export.errors import ChatTemplateError

from ...core.requests import Request as EngineRequest
from ...text.stream import TextStream
from ..answering import Answers
from ..errors import ApiError, error_of, validation_error
from ..protocol.chat import ChatRequest
from ..protocol.responses import CHAT_PARAMS, ResponseRequest
from ..response_answer import ResponseAnswer
from ..served import Served
from ..transport.sse import STREAMED, EventStream
from ..transport.strict_requests import StrictRoute
from .chat import prepare_chat

__all__ = ["response_routes"]


def response_routes(served: Served) -> APIRouter:
    """The path, of a model that is served."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/responses", responses=STREAMED)
    async def create(request: Request, body: ResponseRequest) -> Response:
        """Answer a conversation, of which nothing is kept."""
        served.check_model(body.model)
        chat = _chat_of(body)
        answers = await served.submit(lambda listener: _prepare(served, chat, listener))
        answer = ResponseAnswer(body, chat, served.generates.tokenizer, served.reasoning_of(answers))
        if body.stream:
            return EventStream(_events(served, request, answers, answer), answers.close, typed=True)
        async with served.watching(request, answers):
            async for _ in _taken(answers, answer):
                pass
        return JSONResponse(answer.response(served.note_answers(request, answers, [answer.tokens])))

    return router


def _chat_of(body: ResponseRequest) -> ChatRequest:
    try:
        return body.to_chat()
    except ValidationError as cause:
        raise _renamed(validation_error(cause.errors())) from cause


def _prepare(served: Served, chat: ChatRequest, listener: Callable[[], None]) -> list[tuple[EngineRequest, TextStream]]:
    try:
        return prepare_chat(served, chat, listener)
    except (ApiError, ChatTemplateError) as error:
        raise _renamed(error_of(error)) from error


def _renamed(error: ApiError) -> ApiError:
    """The error of a chat, in the words of a response."""
    param = CHAT_PARAMS.get(error.param or "", error.param)
    message = error.message
    if error.param is not None and param is not None and message.startswith(error.param):
        message = param + message.removeprefix(error.param)
    return ApiError(error.status, message, param=param, code=error.code, headers=error.headers)


async def _taken(answers: Answers, answer: ResponseAnswer) -> AsyncIterator[dict[str, Any] | None]:
    """The events, as they come; None while nothing does."""
    async for news in answers:
        if news is None:
            yield None
            continue
        for event in answer.take(news):
            yield event
        if answer.status != "in_progress":
            answers.close()  # where it ended before the model's turn did
            return


async def _events(
    served: Served, request: Request, answers: Answers, answer: ResponseAnswer
) -> AsyncIterator[dict[str, Any] | None]:
    with served.lifecycle.watch(answers):
        for event in answer.begin():
            yield event
        try:
            async for taken in _taken(answers, answer):
                yield taken
        except Exception as error:  # noqa: BLE001 - the status was sent, so that the client is told in an event
            yield answer.fail(error_of(error))
            return
        yield answer.end(served.note_answers(request, answers, [answer.tokens]))
