"""What is served: the artifact's model, and what all paths share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request

from exaone_export.errors import EngineBusyError, PromptError, UnsupportedOptionError

from ..constraints.constraint import Compiler
from ..core.requests import fit_length
from ..core.sampling import check_bias
from ..runner.runner import Runner
from ..text.chat import ChatFormat
from .answering import Answers
from .embedding import Embedder
from .errors import ApiError
from .lifecycle import Lifecycle
from .metrics import Metrics
from .protocol.generating import Sampled
from .settings import Settings
from .transport.observing import NOTES

__all__ = ["Served", "note"]

_T = TypeVar("_T")


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

    def __post_init__(self) -> None:
        self._preparing = {False: 0, True: 0}  # by whether they may need a grammar
        self._for_grammars = ThreadPoolExecutor(1, thread_name_prefix="exaone-grammars")

    def close(self) -> None:
        """Drop the grammars that wait to be compiled, and let the thread end behind the one that is."""
        self._for_grammars.shutdown(wait=False, cancel_futures=True)

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

    def check_count(self, count: int, param: str) -> None:
        """Raise for more answers than there is ever room for.

        Args:
            count: Of a request.
            param: The field that has it.

        Raises:
            ApiError: There are fewer slots and places in the queue together.
        """
        most = self.generates.engine.most_requests
        if most is not None and count > most:
            message = f"the request asks for {count} answers, and the server has room for {most}; send fewer at a time."
            raise ApiError(400, message, param=param, code="too_many_answers")

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

    async def prepare(self, work: Callable[[], _T], *, is_constrained: bool) -> _T:
        """Do in another thread what a request needs before it is queued.

        Grammars take up to a second each, and have a thread and a count of their own: other requests do not wait for
        them, and are not refused for them.

        Args:
            work: What is done.
            is_constrained: Whether a grammar may have to be compiled.

        Raises:
            EngineBusyError: As many requests of this kind are prepared as may run and wait.
        """
        most = self.generates.engine.most_requests
        if most is not None and self._preparing[is_constrained] >= most:
            raise EngineBusyError(f"{most} requests are being prepared, the maximum; try again later.")
        self._preparing[is_constrained] += 1
        try:
            executor = self._for_grammars if is_constrained else None
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        finally:
            self._preparing[is_constrained] -= 1

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
