"""From the logits of a step to the next token: penalties, then either the best token or a draw.

The steps are those of transformers' processors, in its order: bias, penalties, temperature, top-k, top-p, min-p. The
nucleus of top-p is found by partition, because sorting a vocabulary of 102,400 takes longer than everything else here.

Legend: V vocabulary, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from exaone_export.errors import ConstraintError, LogitsError, UnsupportedOptionError

from .constraint import Constraint

__all__ = ["Logprobs", "Sampler", "Sampling", "check_bias"]

_MOST_LOGPROBS = 1000
_NUMBERS: tuple[tuple[str, type, str], ...] = (
    *((name, Integral, "whole number") for name in ("top_k", "seed", "logprobs")),
    *((name, Real, "number") for name in ("temperature", "top_p", "min_p", "repetition_penalty")),
    *((name, Real, "number") for name in ("presence_penalty", "frequency_penalty")),
)
_FIRST_NUCLEUS = 64  # tokens that are sorted first; more follow while they are too few


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: The logits are divided by it; 0 takes the best token, and everything below but the penalties is
            then without effect.
        top_k: Draw from this many most likely tokens, and those as likely as the last of them; 0 for all.
        top_p: Draw from the fewest tokens that have this probability together; 1 for all.
        min_p: Draw from tokens with at least this share of the largest probability; 0 for all.
        repetition_penalty: Divides the positive logits of tokens in the prompt or the answer, and multiplies the
            negative ones (Keskar et al., "CTRL", 2019); 1 for none.
        presence_penalty: Subtracted from the logits of tokens in the answer.
        frequency_penalty: Subtracted for every time that a token is in the answer.
        logit_bias: Added to logits, by token id.
        seed: Of the draws; None for a fresh one. What else runs does not change them.
        logprobs: How many of the most likely tokens are given with every token; None for no log-probabilities.

    Raises:
        UnsupportedOptionError: A value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, kind, word in _NUMBERS:
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise UnsupportedOptionError(f"{name} is {value!r:.40}; it must be a {word}.")
        if self.seed is not None:
            object.__setattr__(self, "seed", int(self.seed))  # those of numpy have 64 bits
        if not isinstance(self.logit_bias, Mapping) or not all(
            isinstance(token, Integral) and isinstance(bias, Real) for token, bias in self.logit_bias.items()
        ):
            raise UnsupportedOptionError(
                f"logit_bias is {self.logit_bias!r:.60}; it must map token ids, which are whole numbers, to numbers."
            )
        ranges = {
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0, up to 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "presence_penalty": (True, ""),
            "frequency_penalty": (True, ""),
            "logprobs": (0 <= (self.logprobs or 0) <= _MOST_LOGPROBS, f"from 0 to {_MOST_LOGPROBS}"),
        }
        for name, (fits, wanted) in ranges.items():
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UnsupportedOptionError(f"{name} is {value}; it must be a finite number.")
            if not fits:
                raise UnsupportedOptionError(f"{name} is {value}; it must be {wanted}.")
        if any(math.isnan(bias) or bias == math.inf for bias in self.logit_bias.values()):
            raise UnsupportedOptionError("logit_bias holds a value that is not a number; give finite ones.")

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0


def check_bias(logit_bias: Iterable[int], vocab_size: int) -> None:
    """Raise for a token that the model has not.

    Raises:
        UnsupportedOptionError: ``logit_bias`` names one.
    """
    for token in logit_bias:
        if not 0 <= token < vocab_size:
            raise UnsupportedOptionError(
                f"logit_bias names token {token!r:.40}, and the vocabulary is 0 to {vocab_size - 1}; take ids from the "
                f"artifact's tokenizer."
            )


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of the model's own probabilities, before bias, penalties and temperature.

    Attributes:
        chosen: Of the chosen token.
        top: The most likely tokens and theirs, the most likely first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        sampling: How.
        vocab_size: V.
        prompt: Its token ids, for the repetition penalty.
        constraint: Which tokens may come next; none by default.

    Raises:
        UnsupportedOptionError: ``logit_bias`` names a token outside the vocabulary.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        prompt: Iterable[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self.sampling, self._constraint = sampling, constraint
        check_bias(sampling.logit_bias, vocab_size)
        self._bias = dict(sampling.logit_bias)
        self._seen = np.zeros(vocab_size, bool)
        self._seen[list(prompt)] = True
        self._counts = np.zeros(vocab_size, np.int64)
        seed = None if sampling.seed is None else sampling.seed % (1 << 64)
        self._random = np.random.Generator(np.random.Philox(seed)) if sampling.draws else None
        self._counts_tokens = bool(sampling.presence_penalty or sampling.frequency_penalty)

    def choose(self, logits_V: np.ndarray) -> tuple[int, Logprobs | None]:
        """The next token, and its log-probabilities where `Sampling.logprobs` requests them.

        Args:
            logits_V: ``[V]``, of a float type; it is not changed.

        Raises:
            ConstraintError: The constraint allows none.
            LogitsError: They are not numbers.
        """
        scores_V = self.penalized(logits_V)
        if self._constraint is not None:
            scores_V = _allowed(scores_V, logits_V, self._constraint)
        if self._random is None:
            token = int(scores_V.argmax())
            if not math.isfinite(scores_V[token]):  # argmax gives the first that is not a number
                raise _not_numbers()
        else:
            candidates_C, weights_C = self.candidates(scores_V)
            ends_C = weights_C.cumsum()
            drawn = np.searchsorted(ends_C, self._random.random() * ends_C[-1], side="right")
            token = int(candidates_C[min(int(drawn), len(ends_C) - 1)])
        self._seen[token] = True
        self._counts[token] += 1
        wanted = self.sampling.logprobs
        return token, None if wanted is None else _logprobs(logits_V, token, wanted)

    def penalized(self, logits_V: np.ndarray) -> np.ndarray:
        """``[V]`` float32: the logits with bias and penalties; the logits themselves where there are none."""
        logits_V = logits_V.astype(np.float32, copy=False)
        options, scores_V = self.sampling, logits_V
        if self._bias or options.repetition_penalty != 1 or self._counts_tokens:
            scores_V = logits_V.copy()
        if self._bias:
            scores_V[list(self._bias)] += np.fromiter(self._bias.values(), np.float32)
        if options.repetition_penalty != 1:
            seen = np.flatnonzero(self._seen)
            found, penalty = scores_V[seen], np.float32(options.repetition_penalty)
            scores_V[seen] = np.where(found < 0, found * penalty, found / penalty)
        if self._counts_tokens:
            said = np.flatnonzero(self._counts)
            each = options.presence_penalty + options.frequency_penalty * self._counts[said]
            scores_V[said] -= each.astype(np.float32)
        return scores_V

    def candidates(self, scores_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that may be drawn, in the order of their ids, and their weights.

        Args:
            scores_V: As `penalized` gives them.

        Returns:
            ``[C]`` token ids, and ``[C]`` float64, in proportion to the probabilities.

        Raises:
            LogitsError: The scores are not numbers.
        """
        options = self.sampling
        best = float(scores_V.max())
        if not math.isfinite(best):
            raise _not_numbers()
        kept = None  # all
        if 0 < options.top_k < len(scores_V):
            kept = np.flatnonzero(scores_V >= np.partition(scores_V, -options.top_k)[-options.top_k])
        scores_C = scores_V if kept is None else scores_V[kept]
        with np.errstate(over="ignore"):  # the smallest temperatures leave the best token alone
            weights_C = np.exp((scores_C.astype(np.float64) - best) / options.temperature)
        if options.top_p < 1:
            chosen = _nucleus(weights_C, options.top_p)
            kept, weights_C = chosen if kept is None else kept[chosen], weights_C[chosen]
        if options.min_p > 0:  # the largest weight is 1
            chosen = np.flatnonzero(weights_C >= options.min_p)
            kept, weights_C = chosen if kept is None else kept[chosen], weights_C[chosen]
        return np.arange(len(scores_V)) if kept is None else kept, weights_C


def _allowed(scores_V: np.ndarray, logits_V: np.ndarray, constraint: Constraint) -> np.ndarray:
    """The scores with those that a constraint forbids at minus infinity; not in the logits' own memory."""
    if not math.isfinite(scores_V.max()):
        raise _not_numbers()
    if np.may_share_memory(scores_V, logits_V):
        scores_V = scores_V.copy()
    constraint.forbid(scores_V)
    if scores_V.max() == -math.inf:
        raise ConstraintError(
            "the constraint allows no token of the vocabulary to come next; relax the schema or the grammar that the "
            "answer is held to."
        )
    return scores_V


def _nucleus(weights_C: np.ndarray, top_p: float) -> np.ndarray:
    """Indices, ascending, of the fewest largest weights that come to ``top_p`` of all."""
    wanted, size = top_p * weights_C.sum(), _FIRST_NUCLEUS
    while size < len(weights_C):
        largest = np.argpartition(weights_C, -size)[-size:]
        if weights_C[largest].sum() >= wanted:
            break
        size *= 8
    else:
        largest = np.arange(len(weights_C))
    largest = largest[np.argsort(-weights_C[largest], kind="stable")]
    # A token belongs to it where those before it are too few.
    count = int(np.searchsorted(weights_C[largest].cumsum(), wanted)) + 1
    return np.sort(largest[:count])


def _logprobs(logits_V: np.ndarray, token: int, wanted: int) -> Logprobs:
    scores_V = logits_V.astype(np.float64)
    best = scores_V.max()
    if not math.isfinite(best):
        raise _not_numbers()
    total = best + math.log(np.exp(scores_V - best).sum())
    top = np.argpartition(scores_V, -wanted)[-wanted:] if 0 < wanted < len(scores_V) else np.arange(len(scores_V))
    top = top[np.argsort(-scores_V[top], kind="stable")][:wanted]
    pairs = tuple((int(index), float(scores_V[index] - total)) for index in top)
    return Logprobs(float(scores_V[token] - total), pairs)


def _not_numbers() -> Any:
    return LogitsError(
        "the model's logits are not finite numbers: its numbers have overflowed, or its weights are damaged; export "
        "the checkpoint again with --precision float32, and compare with: exaone-export parity."
    )
