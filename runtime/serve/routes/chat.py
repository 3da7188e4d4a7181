"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...core.requests import Request as EngineRequest
from ...runner.presets import apply_preset, recommended
from ...runner.requests import request_of
from ...text.reasoning import Reasoning
from ...text.stream import TextStream
from ..answers.chat import ChatAnswer
from ..answers.choices import Choices
from ..constraints.requested import constraint_of
from ..errors import ApiError
from ..protocol.chat import ChatRequest
from ..respond import Prepared, respond
from ..served import Served
from ..transport.sse import STREAMED
from ..transport.strict_requests import StrictRoute

__all__ = ["chat_routes", "prepare_chat"]


def chat_routes(served: Served) -> APIRouter:
    """The path, of a model that is served."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/chat/completions", responses=STREAMED)
    async def create(request: Request, body: ChatRequest) -> Response:
        """Go on with a chat."""
        served.check_model(body.model)

        def prepare(listener: Callable[[], None]) -> Prepared:
            requests, reasoning = prepare_chat(served, body, listener)
            tokenizer = served.generates.tokenizer
            choices = [ChatAnswer(index, body, tokenizer, reasoning) for index in range(body.count)]
            kind = "chat.completion"
            return Prepared(requests, Choices(body, choices, prefix="chatcmpl", kind=kind, chunk=f"{kind}.chunk"))

        return await respond(served, request, prepare, stream=body.stream, is_constrained=body.is_constrained)

    return router


def prepare_chat(
    served: Served, body: ChatRequest, listener: Callable[[], None]
) -> tuple[list[tuple[EngineRequest, TextStream]], Reasoning | None]:
    """The requests of all choices, and the tags that their answers begin inside of."""
    runner = served.generates
    if served.chat is None:
        raise ApiError(404, "the model has no chat template; use /v1/completions.", code="unsupported_path")
    served.check_count(body.count, "n")
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
    return found, reasoning
