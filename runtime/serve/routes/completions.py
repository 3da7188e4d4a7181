"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from exaone_export.errors import PromptError

from ...runner.requests import request_of, tokens_of
from ...runner.runner import Runner
from ..answers.choices import Choices
from ..answers.completion import CompletionAnswer
from ..constraints.requested import constraint_of
from ..errors import ApiError
from ..protocol.completions import DEFAULT_TOKENS, CompletionRequest
from ..respond import Prepared, respond
from ..served import Served
from ..transport.sse import STREAMED
from ..transport.strict_requests import StrictRoute

__all__ = ["completion_routes"]


def completion_routes(served: Served) -> APIRouter:
    """The path, of a model that is served."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/completions", responses=STREAMED)
    async def create(request: Request, body: CompletionRequest) -> Response:
        """Go on with texts."""
        served.check_model(body.model)

        def prepare(listener: Callable[[], None]) -> Prepared:
            return _prepare(served, body, listener)

        return await respond(served, request, prepare, stream=body.stream, is_constrained=body.is_constrained)

    return router


def _prepare(served: Served, body: CompletionRequest, listener: Callable[[], None]) -> Prepared:
    """The requests of all choices, those of a prompt side by side."""
    runner, options, found = served.generates, body.sampling, []
    served.check_count(body.count * len(body.prompt), "n" if len(body.prompt) == 1 else "prompt")
    assert served.compiler is not None
    make = constraint_of(served.compiler, body)
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs
    for prompt in body.prompt:
        tokens = _encode(runner, prompt)
        served.check_prompt(len(tokens), runner.max_length, "prompt")
        served.check_answer(body, len(tokens), max_tokens=body.max_tokens)
        for index in range(body.count):
            if body.seed is not None:
                options["seed"] = body.seed + index
            length = body.max_tokens or min(DEFAULT_TOKENS, runner.max_length - len(tokens))
            constraint = None if make is None else make()
            more: dict[str, Any] = {"constraint": constraint, "listener": listener, **options}
            found.append(request_of(runner, tokens, max_new_tokens=length, stop=body.stop, **more))
    wants = body.logprobs is not None
    choices = [CompletionAnswer(index, runner.tokenizer, wants_logprobs=wants) for index in range(len(found))]
    kind = "text_completion"
    return Prepared(found, Choices(body, choices, prefix="cmpl", kind=kind, chunk=kind))


def _encode(runner: Runner, prompt: str | list[int]) -> Sequence[int]:
    try:
        tokens = tokens_of(runner, prompt)
    except PromptError as error:
        raise ApiError(400, str(error), param="prompt", code="invalid_value") from error
    if not len(tokens):
        raise ApiError(400, "prompt is empty; write something.", param="prompt", code="invalid_value")
    return tokens
