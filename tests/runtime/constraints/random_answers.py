"""Answers of random logits that a constraint holds, and whether it allows a given one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from exaone_export.runtime.core.constraint import Constraint
from exaone_export.runtime.text.tokenizer import Tokenizer

STOP = 8
_SHORT = 60


def say(
    tokenizer: Tokenizer,
    made: Callable[[], Constraint] | None,
    seed: int,
    *,
    size: int | None = None,
    favour: Sequence[int] = (),
    ending: Sequence[int] = (),
    closes: str = '"}]',
) -> str:
    """The text of random logits; behind 60 tokens the shortest that closes something is chosen, so that it ends.

    Args:
        tokenizer: Of the tokens.
        made: Makes the constraint.
        seed: Of the logits.
        size: Of the vocabulary.
        favour: Tokens that are likelier.
        ending: Tokens that end a text that may be anything, likelier and then nearly sure.
        closes: Characters that close something.
    """
    assert made is not None
    constraint, rng, tokens = made(), np.random.default_rng(seed), list[int]()
    size = size or len(tokenizer)
    lengths, closing = _tokens(tokenizer, size, closes)
    for place in range(600):
        scores = rng.normal(size=size).astype(np.float32)
        scores[list(favour)] += 4
        scores[list(ending)] += 3 + 30 * (place > _SHORT)
        if place > _SHORT:
            scores += 20 * closing - 5 * lengths
            scores[STOP] += 100
        constraint.forbid(scores)
        token = int(scores.argmax())
        assert np.isfinite(scores[token])
        if token == STOP:
            break
        tokens.append(token)
        if constraint.take(token):
            break
    else:
        pytest.fail("it does not end")
    return tokenizer.decode(tokens)


@functools.cache
def _tokens(tokenizer: Tokenizer, size: int, closes: str) -> tuple[np.ndarray, np.ndarray]:
    texts = [tokenizer.decode([index]) for index in range(size)]
    lengths = np.array([len(text) or 99 for text in texts], np.float32)
    return lengths, np.array([any(each in text for each in closes) for text in texts], np.float32)


def allows(constraint: Constraint, tokens: Sequence[int], size: int) -> bool:
    """Whether an answer may begin with these tokens, of a vocabulary of ``size``."""
    for token in tokens:
        scores = np.zeros(size, np.float32)
        constraint.forbid(scores)
        if not np.isfinite(scores[token]):
            return False
        constraint.take(token)
    return True
