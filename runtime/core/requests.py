"""A request, and its answer while it is generated.

Legend: N tokens of the prompt that were in the cache already.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

import numpy as np

from exaone_export.errors import PromptError, UnsupportedOptionError
from exaone_export.progress import Progress, silent

from .answer_length import allowed_answer, check_length
from .cancellation import Cancellation
from .constraint import Constraint
from .sampling import Logprobs, Sampling

__all__ = [
    "LONGEST_SLEEP",
    "Event",
    "FinishReason",
    "Generation",
    "Request",
    "Timings",
    "Token",
    "fit_length",
    "prompt_ids",
]

_log = logging.getLogger(__name__)

LONGEST_SLEEP = 0.1
"""Seconds after which a thread that waits for the engine looks whether it is interrupted.

A signal that comes just before a thread sleeps does not wake it up.
"""

FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer ended: a stop token or a stop string, its greatest length, or because it was cancelled."""


@dataclass(frozen=True)
class Request:
    """What is to be generated.

    Attributes:
        prompt: Token ids, at least one.
        max_new_tokens: The most tokens of the answer, at least 1.
        sampling: How tokens are chosen.
        stop_ids: Tokens that end the answer; the one that does is its last token.
        stops: Is given every token, in the engine's thread; True ends the answer behind it.
        prompt_lookup_num_tokens: The most tokens that are guessed at once from the prompt and the answer, and judged in
            one step, so that there are fewer steps for the same tokens; None for none.
        lookup_adapts: Whether as few are guessed as are expected to save time, none at first; otherwise all are.
        max_matching_ngram_size: The most newest tokens that must have occurred before for a guess.
        progress: Is told how much of the prompt is done, in the engine's thread.
        constraint: Which tokens may come next, and where nothing may follow; this answer's own.
        listener: Is called after each event that `Generation.poll` then gives, in the engine's thread; it must not
            block. If it raises, the answer is cancelled.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: Collection[int] = frozenset()
    stops: Callable[[int], bool] | None = None
    prompt_lookup_num_tokens: int | None = None
    lookup_adapts: bool = False
    max_matching_ngram_size: int = 2
    progress: Progress = silent
    constraint: Constraint | None = None
    listener: Callable[[], None] | None = None

    def check(self, vocab_size: int, max_length: int) -> None:
        """Raise what is wrong with it, before it waits for its turn.

        Raises:
            PromptError: The prompt is empty, holds a token outside the vocabulary, or does not fit together with its
                answer.
            UnsupportedOptionError: A number for prompt lookup is below 1.
        """
        for name in ("prompt_lookup_num_tokens", "max_matching_ngram_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UnsupportedOptionError(f"{name} is {value!r:.40}; it must be at least 1.")
        if not len(self.prompt):
            raise PromptError("the prompt is empty, and a prompt has at least one token; write something.")
        ids = prompt_ids(self.prompt)
        if (wrong := ids[(ids < 0) | (ids >= vocab_size)]).size:
            raise PromptError(
                f"the prompt holds token {wrong[0]}, and the vocabulary is 0 to {vocab_size - 1}; use the artifact's "
                f"own tokenizer, and none of the tokens that were added to it alone."
            )
        fit_length(len(self.prompt), self.max_new_tokens, max_length, is_named=True)


def prompt_ids(prompt: Any) -> np.ndarray:
    """The token ids of one prompt, ``[T]``.

    Raises:
        PromptError: They are not whole numbers, or not a list of them.
    """
    try:
        ids = np.asarray(prompt)
    except (TypeError, ValueError):  # such as lists of several lengths
        ids = np.asarray(None)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise PromptError(
            f"the prompt is {prompt!r:.60}, and its tokens must be a list of whole numbers; pass one text, or the ids "
            f"that the tokenizer gives."
        )
    return ids


def fit_length(prompt: int, asked: int | None, max_length: int, *, is_named: bool) -> int:
    """The most tokens of an answer.

    Args:
        prompt: Tokens of the prompt.
        asked: Tokens that are asked for; None for as many as fit.
        max_length: The most tokens, prompt and answer together, that the artifact holds.
        is_named: Whether the caller named the number, which is then honoured or refused; a default is shortened.

    Raises:
        PromptError: There is no room, or not for as many, or the number is below 1.
    """
    check_length(prompt + 1, max_length)
    if asked is None:
        return max_length - prompt
    if isinstance(asked, bool) or not isinstance(asked, Integral):
        raise PromptError(f"max_new_tokens is {asked!r:.40}; it must be a whole number.")
    if asked < 1:
        raise PromptError(f"max_new_tokens is {asked}; it must be at least 1.")
    return allowed_answer(prompt, asked, max_length, is_named)


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        id: Of the vocabulary.
        logprobs: What `Sampling.logprobs` asks for.
    """

    id: int
    logprobs: Logprobs | None = None


Event = Token | FinishReason | BaseException
"""What an engine tells of an answer: tokens, then why there is no further one, or the error that has ended it."""


@dataclass
class Timings:
    """When things happened, in seconds of `time.perf_counter`.

    Attributes:
        submitted: The request.
        begun: Its prompt was begun.
        first_token: The first token was there; None before.
        last_token: The latest token was there; None before.
        reused: N.
    """

    submitted: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    reused: int = 0

    def begin(self, *, reused: int) -> None:
        """The prompt's turn has come."""
        self.begun, self.reused = time.perf_counter(), reused

    def note_token(self) -> None:
        """A token is there."""
        self.last_token = time.perf_counter()
        if self.first_token is None:
            self.first_token = self.last_token

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the request to the first token."""
        return None if self.first_token is None else self.first_token - self.submitted

    def tokens_per_second(self, tokens: int) -> float | None:
        """Of the tokens behind the first one; None for fewer than two."""
        if tokens < 2 or self.first_token is None or self.last_token is None:
            return None
        return (tokens - 1) / max(self.last_token - self.first_token, 1e-9)


class Generation:
    """An answer while it is generated: iterate over its tokens, or `poll` for them, in one thread.

    Leaving the iteration, by an exception or by closing the iterator, cancels it and waits until its step has ended.

    Attributes:
        request: As submitted.
        timings: When things happened.
        finish_reason: Why it ended, "cancelled" for an error too; None until the reader has come to the end.
        steps: Of the model, behind the prompt's.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.timings = request, Timings()
        self.finish_reason: FinishReason | None = None
        self.cancellation = Cancellation()
        self.steps = 0
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def cancel(self) -> None:
        """End it, from any thread: its iteration stops behind the tokens that there are."""
        self.cancellation.cancel()

    def close(self) -> None:
        """Cancel it unless it has ended, and wait until it has."""
        if self.finish_reason is None:
            self.cancel()
            while isinstance(event := self._events.get(), Token):
                pass
            self._end(event)

    def poll(self) -> list[Event]:
        """The events that are there since the last call, in their order, without waiting; a closed generation has none.

        The last event of all is a `FinishReason` or, not raised, an error; `finish_reason` is set when it was given.
        """
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            while self.finish_reason is None:
                found.append(event := self._events.get_nowait())
                if not isinstance(event, Token):
                    self._end(event)
        return found

    def put(self, event: Event) -> None:
        """Of the engine: the next token, why there is no further one, or what went wrong."""
        self._events.put(event)
        if self.request.listener is not None:
            try:
                self.request.listener()
            except Exception:  # noqa: BLE001 - logged, and it is not the engine that failed
                _log.exception("a request's listener failed; its answer is cancelled")
                self.cancel()

    def __iter__(self) -> Iterator[Token]:
        try:
            while self.finish_reason is None:
                event = self._next()
                if isinstance(event, Token):
                    yield event
                    continue
                self._end(event)
                if isinstance(event, BaseException):
                    raise event
        finally:
            self.close()

    def _next(self) -> Event:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._events.get(timeout=LONGEST_SLEEP)

    def _end(self, event: FinishReason | BaseException) -> None:
        self.finish_reason = "cancelled" if isinstance(event, BaseException) else event
