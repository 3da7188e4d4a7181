"""One answer: a prompt's prefill, and then a token, or a run of guesses that are judged, a step.

Legend: K positions of a step behind which a token is chosen, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..cancellation import Cancellation
from ..requests import Event, FinishReason, Generation, Token
from ..sampling import Sampler
from ..scheduling.statistics import Statistics
from ..slots.slot import Slot
from .pace import Pace, StepCosts
from .prompt_lookup import PromptLookup, judge

__all__ = ["Answering"]


class Answering:
    """Gives a generation its tokens, in the engine's thread, which runs the steps.

    Args:
        generation: Whose.
        sampler: Chooses them.
        statistics: Of the engine, which count them.
        costs: Of its steps.

    Attributes:
        slot: Where it is generated, from `begin` on.
        reason: Why it has ended; None before.
    """

    slot: Slot

    def __init__(self, generation: Generation, sampler: Sampler, statistics: Statistics, costs: StepCosts) -> None:
        self._generation, self._sampler, self._request = generation, sampler, generation.request
        self._statistics = statistics
        self._prefill: Iterator[np.ndarray] | None = None
        self._lookup: PromptLookup | None = None
        self._guesses: list[int] = []
        self._unjudged: int | None = None
        self._pace = Pace(costs) if self._request.lookup_adapts else None
        self._left = self._request.max_new_tokens
        self._newest = -1
        self.reason: FinishReason | None = None

    @property
    def cancellation(self) -> Cancellation:
        """The generation's."""
        return self._generation.cancellation

    @property
    def prompt_left(self) -> int:
        """Tokens of the prompt that no step has run yet."""
        return 0 if self._prefill is None else len(self._request.prompt) - len(self.slot.tokens)

    def put(self, event: Event) -> None:
        """Hand on why it has ended."""
        self._generation.put(event)

    @property
    def prompt(self) -> Sequence[int]:
        """The request's."""
        return self._request.prompt

    def begin(self, slot: Slot) -> None:
        """Take a slot, and go back there to what the prompt shares with it."""
        request, counted = self._request, self._statistics
        self.slot = slot
        self._generation.timings.begin(reused=slot.reuse(request.prompt))
        counted.prompt_tokens += len(request.prompt)
        counted.reused_tokens += len(slot.tokens)
        self._prefill = slot.prefill_steps(request.prompt, self.cancellation, request.progress)
        if request.prompt_lookup_num_tokens is not None:
            numbers = request.prompt_lookup_num_tokens, request.max_matching_ngram_size
            self._lookup = PromptLookup(map(int, request.prompt), *numbers, request.stop_ids)

    def prefill(self) -> None:
        """Run a step of the prompt; the last one gives the first token."""
        assert self._prefill is not None
        logits_KV = next(self._prefill)
        if not self.prompt_left:
            self._prefill = None
            self._give(logits_KV)

    def next_tokens(self, *, with_guesses: bool) -> list[int]:
        """Those of the next step: the newest one, and what may follow."""
        self._guesses, self._unjudged = [], None
        if with_guesses and self._lookup is not None:  # a token of the model's own follows the guesses
            guesses = self._lookup.guess()[: min(self._left - 1, self.slot.most_guesses)]
            if self._pace is not None:
                worth = self._pace.length(len(guesses))
                self._unjudged = guesses[0] if guesses and not worth else None
                guesses = guesses[:worth]
            self._guesses = guesses
        return [self._newest, *self._guesses]

    def take(self, logits_KV: np.ndarray) -> None:
        """Choose from what the step over `next_tokens` has given; where it ends, its slot holds all but the last."""
        self._generation.steps += 1
        self._give(logits_KV)

    def _give(self, logits_KV: np.ndarray) -> None:
        self._logits_KV = logits_KV
        rejected, _ = judge(self._guesses, self._choose, self._take)
        if self._pace is not None and self._guesses:
            # One that was not looked at, behind an answer's end, is neither.
            right = len(self._guesses) - rejected
            self._pace.note(right, int(rejected > 0 and self._newest != self._guesses[right]))
        elif self._pace is not None and self._unjudged is not None:
            self._pace.note(int(self._newest == self._unjudged), int(self._newest != self._unjudged))
        self.slot.take_back(rejected)

    def _choose(self, row: int) -> int:
        self._newest, self._logprobs = self._sampler.choose(self._logits_KV[row])
        return self._newest

    def _take(self, token: int) -> bool:
        generation, request = self._generation, self._request
        generation.cancellation.check()
        generation.timings.note_token()
        generation.put(Token(token, self._logprobs))
        self._statistics.answer_tokens += 1
        self._left -= 1
        if self._lookup is not None:
            self._lookup.extend([token])
        complete = request.constraint is not None and request.constraint.take(token)
        stops = request.stops is not None and request.stops(token)
        if stops or complete or token in request.stop_ids:
            self.reason = "stop"
        elif not self._left:
            self.reason = "length"
        return self.reason is not None
