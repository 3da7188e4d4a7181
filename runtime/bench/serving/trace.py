"""The requests of a measurement: made of a seed, alike for every number of clients and the same for every server."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Asked", "make_trace"]

_WORDS = ("river", "stone", "market", "garden", "window", "letter", "summer", "bridge", "island", "engine", "number")


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        prompt: A text that no other request begins with.
        tokens: Of the answer.
        pause: Seconds that a client waits before it sends this one.
    """

    prompt: str
    tokens: int
    pause: float


def make_trace(
    count: int, *, prompt: int, new: int, pause: float, seed: int, length: Callable[[str], int], first: int = 0
) -> Sequence[Asked]:
    """Requests whose prompts and answers are of half the length to all of it, and whose pauses are exponential.

    Args:
        count: Requests.
        prompt: The most tokens of a prompt.
        new: The most tokens of an answer.
        pause: The mean, in seconds.
        seed: Of the lengths, the words and the pauses.
        length: Tokens of a text.
        first: The number that the first prompt begins with; traces of other numbers are the same but for them, so that
            a server has no prompt of theirs in its cache.
    """
    chance = random.Random(seed)
    return [
        Asked(
            _text(chance, number, chance.randint(max(prompt // 2, 1), prompt), length),
            chance.randint(max(new // 2, 2), new),
            chance.expovariate(1 / pause) if pause else 0.0,
        )
        for number in range(first, first + count)
    ]


def _text(chance: random.Random, number: int, tokens: int, length: Callable[[str], int]) -> str:
    """A text of at most so many tokens, unless one word has more; the number comes first, so that no cache helps."""
    words = [str(number), *chance.choices(_WORDS, k=tokens)]
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(" ".join(words[:middle])) <= tokens else (low, middle - 1)
    return " ".join(words[:low])
