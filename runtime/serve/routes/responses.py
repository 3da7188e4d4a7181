"""``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from exaone_export.errors import ChatTemplateError

from ..answers.response import ResponseAnswer
from ..errors import ApiError, error_of, validation_error
from ..protocol.chat import ChatRequest
from ..protocol.responses import CHAT_PARAMS, ResponseRequest
from ..respond import Prepared, respond
from ..served import Served
from ..transport.sse import STREAMED
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

        def prepare(listener: Callable[[], None]) -> Prepared:
            try:
                requests, reasoning = prepare_chat(served, chat, listener)
            except (ApiError, ChatTemplateError) as error:
                raise _renamed(error_of(error)) from error
            return Prepared(requests, ResponseAnswer(body, chat, served.generates.tokenizer, reasoning))

        return await respond(served, request, prepare, stream=body.stream, is_constrained=chat.is_constrained)

    return router


def _chat_of(body: ResponseRequest) -> ChatRequest:
    try:
        return body.to_chat()
    except ValidationError as cause:
        raise _renamed(validation_error(cause.errors())) from cause


def _renamed(error: ApiError) -> ApiError:
    """The error of a chat, in the words of a response."""
    param = CHAT_PARAMS.get(error.param or "", error.param)
    message = error.message
    if error.param is not None and param is not None and message.startswith(error.param):
        message = param + message.removeprefix(error.param)
    return ApiError(error.status, message, param=param, code=error.code, headers=error.headers)
