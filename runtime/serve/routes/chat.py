"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ...core.requests import Request as EngineRequest
from ...runner.presets import apply_preset, recommended
from ...runner.requests import request_of
from ...text.stream import TextStream
from ..answering import Answers
from ..chat_answer import ChatAnswer
from ..constraints.requested import constraint_of
from ..errors import ApiError
from ..protocol.chat import ChatRequest
from ..served import Served
from ..transport.sse import STREAMED, EventStream
from ..transport.strict_requests import StrictRoute

__all__ = ["chat_routes", "prepare_chat"]


def chat_routes(served: Served) -> APIRouter:
    """The path, of a model that is served."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/chat/completions", responses=STREAMED)
    async def create(request: Request, body: ChatRequest) -> Response:
        """Go on with a chat."""
        served.check_model(body.model)
        answers = await served.submit(lambda listener: prepare_chat(served, body, listener))
        reasoning = served.reasoning_of(answers)
        choices = [ChatAnswer(index, body, served.generates.tokenizer, reasoning) for index in range(body.count)]
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": body.model,
        }
        if body.stream:
            return EventStream(_chunks(served, request, body, answers, choices, head), answers.close)
        async with served.watching(request, answers):
            async for _ in _choices(answers, choices):
                pass
        usage = served.note_answers(request, answers, [choice.tokens for choice in choices])
        return JSONResponse({**head, "choices": [choice.whole for choice in choices], "usage": usage})

    return router


def prepare_chat(
    served: Served, body: ChatRequest, listener: Callable[[], None]
) -> list[tuple[EngineRequest, TextStream]]:
    """The requests of all choices."""
    runner = served.generates
    if served.chat is None:
        raise ApiError(404, "the model has no chat template; use /v1/completions.", code="unsupported_path")
    tools = [tool.for_template() for tool in body.offered]
    messages = [message.for_template() for message in body.messages]
    assert served.compiler is not None
    prompt = served.chat.encode(messages, enable_thinking=body.thinks, tools=tools or None)
    served.check_prompt(len(prompt), runner.max_length)
    asked = {name: getattr(body, name) for name in ("max_tokens", "max_completion_tokens")}
    served.check_answer(body, len(prompt), **asked)
    reasoning = served.chat.opened(prompt)
    make = constraint_of(served.compiler, body, served.chat, reasoning)
    model = recommended(runner.artifact, runner.tokenizer.chat_template)
    options = apply_preset(None, body.sampling, runner.defaults, model, reasons=reasoning is not None)
    if body.logprobs:
        options["logprobs"] = body.top_logprobs or 0
    found = []
    for index in range(body.count):
        if body.seed is not None:
            options["seed"] = body.seed + index
        constraint = None if make is None else make()
        more: dict[str, Any] = {"constraint": constraint, "listener": listener, **options}
        found.append(request_of(runner, prompt, max_new_tokens=body.most_tokens, stop=body.stop, **more))
    return found


async def _choices(answers: Answers, choices: list[ChatAnswer]) -> AsyncIterator[dict[str, Any] | None]:
    """The choices of chunks, as they come; None while nothing does."""
    async for news in answers:
        if news is None:
            yield None
            continue
        choice = choices[news.index]
        for chunk in choice.take(news):
            yield chunk
        if choice.finish_reason is not None:
            answers.leave(news.index)  # where it ended before the model's turn did
            if all(each.finish_reason is not None for each in choices):
                return


async def _chunks(
    served: Served,
    request: Request,
    body: ChatRequest,
    answers: Answers,
    choices: list[ChatAnswer],
    head: dict[str, Any],
) -> AsyncIterator[dict[str, Any] | None]:
    usage: dict[str, Any] = {"usage": None} if body.gives_usage else {}
    with served.lifecycle.watch(answers):
        for choice in choices:
            first = {"index": choice.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            yield {**head, "choices": [first], **usage}
        async for chunk in _choices(answers, choices):
            yield None if chunk is None else {**head, "choices": [chunk], **usage}
        found = served.note_answers(request, answers, [choice.tokens for choice in choices])
        if body.gives_usage:
            yield {**head, "choices": [], "usage": found}
