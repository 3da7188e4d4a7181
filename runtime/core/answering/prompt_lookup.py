"""Lossless speculation by prompt lookup: guess a run of tokens from the text so far, and judge it in one step.

The guess is what followed the newest tokens where they occurred first (Saxena, "Prompt Lookup Decoding", 2023). One
step over the guesses gives the logits behind each of them, and tokens are chosen from these one by one, as from steps
of their own, until one is not what was guessed. That one is a token like any other, so every step gives at least one;
the cache takes back the guesses behind it.

Legend: T tokens so far.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

__all__ = ["PromptLookup", "judge"]


class PromptLookup:
    """Guesses the tokens of one row, as ``PromptLookupCandidateGenerator`` of transformers does.

    Args:
        tokens: Those so far.
        num_tokens: The most that are guessed at once, at least 1.
        max_ngram_size: The most newest tokens that must have occurred before, at least 1; more go before fewer.
        ends: Tokens that are never guessed, and nothing behind them.

    Attributes:
        tokens: Those so far.
    """

    def __init__(
        self, tokens: Iterable[int], num_tokens: int, max_ngram_size: int = 2, ends: Collection[int] = ()
    ) -> None:
        self._num_tokens, self._max_ngram_size, self._ends = num_tokens, max_ngram_size, ends
        self.tokens = array("q", tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Note the next tokens."""
        self.tokens.extend(tokens)

    def guess(self) -> list[int]:
        """What may come next; nothing where the newest token is new."""
        tokens_T = np.frombuffer(self.tokens, np.int64)
        found = np.flatnonzero(tokens_T[:-1] == tokens_T[-1])  # where the newest tokens have ended before
        for size in range(1, min(self._max_ngram_size, len(tokens_T))):
            longer = found[found >= size]
            longer = longer[tokens_T[longer - size] == tokens_T[-1 - size]]
            if not longer.size:
                break
            found = longer
        if not found.size:
            return []
        start = int(found[0]) + 1
        guesses = self.tokens[start : start + self._num_tokens].tolist()
        return guesses[: next((i for i, token in enumerate(guesses) if token in self._ends), len(guesses))]


def judge(guesses: Sequence[int], choose: Callable[[int], int], take: Callable[[int], bool]) -> tuple[int, bool]:
    """Choose tokens behind a step over guesses, as long as they are what was guessed, and one more.

    Args:
        guesses: Of the step, none for a plain one.
        choose: From the number of guesses before it to the next token.
        take: Is given each token; True ends the answer behind it.

    Returns:
        How many of the newest guesses the cache must take back, and whether the answer has ended.
    """
    for right, guess in enumerate([*guesses, None]):
        token = choose(right)
        ended = take(token)
        if ended or token != guess:
            break
    return len(guesses) - right, ended
