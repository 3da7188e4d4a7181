"""One answer: a prompt's prefill, and then a token, or a run of guesses that are judged, a step.

Legend: K positions of a step behind which a token is chosen, V vocabulary.
"""

from __future__ import annotations

from exaone_export.errors import CancelledError

from ..requests import FinishReason, Generation, Token
from ..sampling import Sampler
from ..slot import Slot
from .prompt_lookup import PromptLookup, judge

__all__ = ["Answering"]


class Answering:
    """Gives a generation its tokens, in the engine's thread.

    Args:
        generation: Whose.
        sampler: Chooses them.
    """

    def __init__(self, generation: Generation, sampler: Sampler) -> None:
        self._generation, self._sampler, self._request = generation, sampler, generation.request
        self._lookup: PromptLookup | None = None
        self._left = self._request.max_new_tokens
        self._reason: FinishReason = "length"
        self._newest = -1

    def run(self, slot: Slot) -> FinishReason:
        """Give all of them, and return why there is no further one; the slot then holds all but the last."""
        try:
            self._generation.cancellation.check()
            return self._run(slot)
        except CancelledError:
            return "cancelled"
        except BaseException:
            slot.clear()
            raise

    def _run(self, slot: Slot) -> FinishReason:
        generation, request = self._generation, self._request
        generation.timings.begin(reused=slot.reuse(request.prompt))
        self._logits_KV = slot.prefill(request.prompt, generation.cancellation, request.progress)
        if request.prompt_lookup_num_tokens is not None:
            numbers = request.prompt_lookup_num_tokens, request.max_matching_ngram_size
            self._lookup = PromptLookup(map(int, request.prompt), *numbers, request.stop_ids)
        guesses: list[int] = []
        while True:
            rejected, ended = judge(guesses, self._choose, self._take)
            slot.take_back(rejected)
            if ended:
                return self._reason
            if self._lookup is not None:  # a token of the model's own follows the guesses
                guesses = self._lookup.guess()[: min(self._left - 1, slot.most_guesses)]
            self._logits_KV = slot.step([self._newest, *guesses], generation.cancellation, judged=len(guesses) + 1)
            generation.steps += 1

    def _choose(self, row: int) -> int:
        self._newest, self._logprobs = self._sampler.choose(self._logits_KV[row])
        return self._newest

    def _take(self, token: int) -> bool:
        generation, request = self._generation, self._request
        generation.cancellation.check()
        generation.timings.note_token()
        generation.put(Token(token, self._logprobs))
        self._left -= 1
        complete = request.constraint is not None and request.constraint.take(token)
        if self._lookup is not None:
            self._lookup.extend([token])
        stops = request.stops is not None and request.stops(token)
        if stops or complete or token in request.stop_ids:
            self._reason = "stop"
        return self._reason == "stop" or not self._left
