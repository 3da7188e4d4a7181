"""``POST /v1/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from exaone_export.errors import PromptError

from ...core.requests import Request as EngineRequest
from ...core.requests import Token
from ...runner.requests import request_of, tokens_of
from ...runner.runner import Runner
from ...text.stream import TextStream
from ...text.tokenizer import Tokenizer
from ..answering import Answers, News
from ..constraints.requested import constraint_of
from ..errors import ApiError
from ..log_probabilities import completion_logprobs
from ..protocol.completions import DEFAULT_TOKENS, CompletionRequest
from ..served import Served
from ..transport.sse import STREAMED, EventStream
from ..transport.strict_requests import StrictRoute

__all__ = ["completion_routes"]


@dataclass
class _Choice:
    """One answer; what is new of it is a chunk's choice."""

    tokenizer: Tokenizer
    wants_logprobs: bool
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish_reason: str | None = None
    offset: int = 0

    def take(self, news: News) -> dict[str, Any]:
        self.text += news.text
        self.tokens += news.tokens
        self.finish_reason = news.finish_reason
        logprobs = None
        if self.wants_logprobs:
            logprobs, self.offset = completion_logprobs(self.tokenizer, news.tokens, self.offset)
        return {"index": news.index, "text": news.text, "logprobs": logprobs, "finish_reason": news.finish_reason}

    def whole(self, index: int) -> dict[str, Any]:
        logprobs = completion_logprobs(self.tokenizer, self.tokens, 0)[0] if self.wants_logprobs else None
        return {"index": index, "text": self.text, "logprobs": logprobs, "finish_reason": self.finish_reason}


def completion_routes(served: Served) -> APIRouter:
    """The path, of a model that is served."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/completions", responses=STREAMED)
    async def create(request: Request, body: CompletionRequest) -> Response:
        """Go on with texts."""
        served.check_model(body.model)
        answers = await served.submit(lambda listener: _prepare(served, body, listener))
        count = body.count * len(body.prompt)
        choices = [_Choice(served.generates.tokenizer, body.logprobs is not None) for _ in range(count)]
        head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }
        if body.stream:
            return EventStream(_chunks(served, request, body, answers, choices, head), answers.close)
        async with served.watching(request, answers):
            async for news in answers:
                if news is not None:
                    choices[news.index].take(news)
        usage = served.note_answers(request, answers, [len(choice.tokens) for choice in choices])
        whole = [choice.whole(index) for index, choice in enumerate(choices)]
        return JSONResponse({**head, "choices": whole, "usage": usage})

    return router


def _prepare(
    served: Served, body: CompletionRequest, listener: Callable[[], None]
) -> list[tuple[EngineRequest, TextStream]]:
    """The requests of all choices, those of a prompt side by side."""
    runner, options, found = served.generates, body.sampling, []
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
    return found


def _encode(runner: Runner, prompt: str | list[int]) -> Sequence[int]:
    try:
        tokens = tokens_of(runner, prompt)
    except PromptError as error:
        raise ApiError(400, str(error), param="prompt", code="invalid_value") from error
    if not len(tokens):
        raise ApiError(400, "prompt is empty; write something.", param="prompt", code="invalid_value")
    return tokens


async def _chunks(
    served: Served,
    request: Request,
    body: CompletionRequest,
    answers: Answers,
    choices: list[_Choice],
    head: dict[str, Any],
) -> AsyncIterator[dict[str, Any] | None]:
    usage: dict[str, Any] = {"usage": None} if body.gives_usage else {}
    with served.lifecycle.watch(answers):
        async for news in answers:
            yield None if news is None else {**head, "choices": [choices[news.index].take(news)], **usage}
        found = served.note_answers(request, answers, [len(choice.tokens) for choice in choices])
        if body.gives_usage:
            yield {**head, "choices": [], "usage": found}
