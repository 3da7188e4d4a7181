"""What is served: the artifact's model, and what all paths share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request

from exaone_export.errors import PromptError, UnsupportedOptionError

from ..constraints.constraint import Compiler
from ..core.requests import Request as EngineRequest
from ..core.requests import fit_length
from ..core.sampling import check_bias
from ..runner.runner import Runner
from ..text.chat import ChatFormat
from ..text.reasoning import Reasoning
from ..text.stream import TextStream
from .answering import Answers
from .embedding import Embedder
from .errors import ApiError
from .lifecycle import Lifecycle
from .metrics import Metrics
from .protocol.generating import Sampled
from .settings import Settings
from .transport.observing import NOTES

__all__ = ["Served", "note"]

Prepare = Callable[[Callable[[], None]], Sequence[tuple[EngineRequest, TextStream]]]


@dataclass
class Served:
    """The server's parts.

    Attributes:
        settings: As the server was told.
        runner: Of a model that generates text; else None.
        embedder: Of a model that gives hidden states; else None.
        chat: Renders chats; None where the artifact has no chat template.
        metrics: Counts.
        lifecycle: Of the server.
        compiler: Of constraints; None of a model that generates no text.
        created: When it began, in seconds since 1970.
    """

    settings: Settings
    runner: Runner | None
    embedder: Embedder | None
    chat: ChatFormat | None
    metrics: Metrics
    lifecycle: Lifecycle
    compiler: Compiler | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def generates(self) -> Runner:
        """The runner.

        Raises:
            ApiError: The artifact generates no text.
        """
        if self.runner is None:
            raise ApiError(404, "the model gives vectors and no text; use /v1/embeddings.", code="unsupported_path")
        return self.runner

    @property
    def state(self) -> str:
        """``ready``, ``stopping``, or ``failed`` where the engine has ended by itself and answers nothing any more."""
        if self.lifecycle.stopping:
            return "stopping"
        return "ready" if self.runner is None or self.runner.engine.is_alive else "failed"

    def check_model(self, name: str) -> None:
        """Raise unless a request names the model that is served.

        Raises:
            ApiError: It names another.
        """
        if name != self.settings.model_name:
            message = f"the model {name!r:.100} is not served here; use {self.settings.model_name!r:.100}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_prompt(self, tokens: int, most: int, param: str = "messages") -> None:
        """Raise for a prompt that is too long.

        Args:
            tokens: Of the prompt.
            most: That the artifact holds, prompt and answer together.
            param: The field that has it.

        Raises:
            ApiError: It leaves no room for an answer, or is longer than the server takes.
        """
        most = min(most - 1, self.settings.max_prompt_tokens or most)
        if tokens > most:
            message = f"the prompt has {tokens} tokens, and at most {most} are taken; shorten it."
            raise ApiError(400, message, param=param, code="context_length_exceeded")

    def reasoning_of(self, answers: Answers) -> Reasoning | None:
        """The tags that the prompt of a chat opened at its end, so that its answers begin inside them."""
        assert self.chat is not None
        return self.chat.opened(answers.generations[0].request.prompt)

    def check_answer(self, body: Sampled, prompt: int, **asked: int | None) -> None:
        """Raise for an answer that cannot be generated, by the name of the field that asks for it.

        Args:
            body: The request.
            prompt: Tokens of the prompt.
            asked: Tokens of the answer, by the field that has the number.

        Raises:
            ApiError: There is no room for as many tokens, or ``logit_bias`` names one that the model has not.
        """
        holds = self.generates.max_length
        for param, most in asked.items():
            if most is None:
                continue
            try:
                fit_length(prompt, most, holds, is_named=True)
            except PromptError as cause:
                room = f"the prompt's {prompt} tokens leave room for {holds - prompt} of {holds}"
                message = f"{param} is {most}, and {room}; ask for fewer."
                raise ApiError(400, message, param=param, code="context_length_exceeded") from cause
        try:
            check_bias(map(int, body.logit_bias or ()), self.generates.engine.vocab_size)
        except UnsupportedOptionError as cause:
            raise ApiError(400, str(cause), param="logit_bias", code="invalid_value") from cause

    async def submit(self, prepare: Prepare) -> Answers:
        """Begin the answers of a request, prepared in another thread.

        Args:
            prepare: Is given the listener of its requests, and gives them.

        Raises:
            ApiError: The server is stopping.
            ExaoneExportError: A request is refused.
        """
        answers = Answers(self.generates.engine, asyncio.get_running_loop())
        try:
            await asyncio.to_thread(lambda: answers.submit(prepare(answers.listen)))
        except asyncio.CancelledError:
            answers.end(ApiError(499, "the client has gone."))
            raise
        return answers

    @asynccontextmanager
    async def watching(self, request: Request, answers: Answers) -> AsyncIterator[None]:
        """End answers when their time is over, their client goes, or the server stops."""

        async def until_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            answers.end(ApiError(499, "the client has gone."))

        with self.lifecycle.watch(answers):
            watcher = asyncio.ensure_future(until_gone())
            try:
                yield
            finally:
                watcher.cancel()

    def note_answers(self, request: Request, answers: Answers, tokens: Sequence[int]) -> dict[str, object]:
        """Count answers that have ended, for the log and the metrics; returns their usage as OpenAI writes it.

        Args:
            request: Theirs.
            answers: Of the request.
            tokens: Of each answer.
        """
        found = answers.generations
        self.metrics.note_answers(found, tokens)
        prompts = {id(each.request.prompt): each for each in reversed(found)}.values()  # n answers have one prompt
        prompt, cached = sum(len(each.request.prompt) for each in prompts), sum(each.timings.reused for each in prompts)
        first = min((each.timings.time_to_first_token or 0 for each in found), default=0)
        note(request, prompt_tokens=prompt, answer_tokens=sum(tokens), first_token_seconds=round(first, 4))
        return {
            "prompt_tokens": prompt,
            "completion_tokens": sum(tokens),
            "total_tokens": prompt + sum(tokens),
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def note(request: Request, **notes: object) -> None:
    """Let the log say more of a request."""
    request.scope.get(NOTES, {}).update(notes)
