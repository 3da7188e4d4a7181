"""Tokens are chosen from the distribution that transformers' processors leave, and by a request's own seed alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from exaone_export.errors import LogitsError, UnsupportedOptionError
from exaone_export.runtime.core.sampling import Sampler, Sampling

VOCAB = 5000
PROMPT = [3, 3, 17, 4000]


def logits(seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(VOCAB) * scale).astype(np.float32)


def theirs(scores: np.ndarray, sampling: Sampling) -> np.ndarray:
    """transformers' probabilities, by its own processors in its own order."""
    processors = LogitsProcessorList()
    if sampling.logit_bias:
        processors.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in sampling.logit_bias.items()]))
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    found: torch.Tensor = processors(torch.tensor([PROMPT]), torch.from_numpy(scores.copy())[None])
    return found[0].double().softmax(-1).numpy()


def ours(scores: np.ndarray, sampling: Sampling) -> np.ndarray:
    sampler = Sampler(sampling, VOCAB, PROMPT)
    kept, weights = sampler.candidates(sampler.penalized(scores))
    assert (np.diff(kept) > 0).all()
    found = np.zeros(VOCAB)
    found[kept] = weights / weights.sum()
    return found


@pytest.mark.parametrize("scale", [0.05, 1.0, 6.0])
def test_the_distribution_is_that_of_transformers(scale: float) -> None:
    scores = logits(1, scale)
    choices: dict[str, tuple[Any, ...]] = {
        "temperature": (0.6, 1.0, 1.7),
        "top_k": (0, 1, 40),
        "top_p": (1.0, 0.95, 0.3),
        "min_p": (0.0, 0.1),
        "repetition_penalty": (1.0, 1.3),
        "logit_bias": ({}, {17: 4.0, 5: -100.0}),
    }
    for values in itertools.product(*choices.values()):
        sampling = Sampling(**dict(zip(choices, values, strict=True)))
        wanted, found = theirs(scores, sampling), ours(scores, sampling)
        # float32 sums of thousands of terms part at the end of a flat nucleus.
        differs = int(((wanted > 0) != (found > 0)).sum())
        assert differs <= (2 if sampling.top_p < 1 else 0), sampling
        np.testing.assert_allclose(found, wanted, atol=2e-6 + 2 * differs / max((wanted > 0).sum(), 1) ** 2)


def test_tokens_as_likely_as_the_last_one_stay() -> None:
    scores = np.array([1, 2, 2, 2, 0], np.float32)
    kept, _ = Sampler(Sampling(temperature=1, top_k=2), 5).candidates(scores)
    assert kept.tolist() == [1, 2, 3]


def test_a_nucleus_over_a_whole_vocabulary() -> None:
    """More tokens than are looked at first, up to all of them but the last."""
    weights = np.arange(1, 1001, dtype=np.float64)
    for top_p in (0.01, 0.5, 0.9, 0.999999):
        kept, _ = Sampler(Sampling(temperature=1, top_p=top_p), 1000).candidates(np.log(weights).astype(np.float32))
        sums = weights[::-1].cumsum()
        assert len(kept) == int((sums < top_p * sums[-1] * (1 - 1e-9)).sum()) + 1
        assert kept[-1] == 999 and len(set(np.diff(kept))) <= 1


def test_penalties_of_what_was_said() -> None:
    """Presence once, frequency every time; the prompt does not count."""
    sampler = Sampler(Sampling(presence_penalty=0.5, frequency_penalty=0.25), 6, prompt=[0])
    scores = np.array([1, 0, 5, 0, 0, 4.9], np.float32)
    assert [sampler.choose(scores)[0] for _ in range(3)] == [2, 5, 2]
    np.testing.assert_allclose(sampler.penalized(scores), [1, 0, 5 - 0.5 - 0.5, 0, 0, 4.9 - 0.75], atol=1e-6)
    assert scores.tolist() == np.array([1, 0, 5, 0, 0, 4.9], np.float32).tolist(), "the logits are the session's"


def test_greedy_takes_penalties_and_bias() -> None:
    scores = np.array([3, 2.9, 0], np.float32)
    assert Sampler(Sampling(), 3, [0]).choose(scores)[0] == 0
    assert Sampler(Sampling(repetition_penalty=1.1), 3, [0]).choose(scores)[0] == 1
    assert Sampler(Sampling(logit_bias={2: 3.5}), 3, [0]).choose(scores)[0] == 2
    assert Sampler(Sampling(logit_bias={0: -math.inf, 1: -math.inf}), 3, [0]).choose(scores)[0] == 2


def test_a_seed_is_a_request_s_own() -> None:
    """What another request or the process draws in between changes nothing."""
    sampling = Sampling(temperature=1.3, seed=7)
    alone = Sampler(sampling, VOCAB)
    wanted = [alone.choose(logits(i))[0] for i in range(8)]
    here, other, found = Sampler(sampling, VOCAB), Sampler(Sampling(temperature=1, seed=7), VOCAB), []
    for i in range(8):
        np.random.standard_normal(3)
        other.choose(logits(100 + i))
        found.append(here.choose(logits(i))[0])
    assert found == wanted and len(set(wanted)) > 1
    fresh = Sampling(temperature=1.3)
    drawn = [[sampler.choose(logits(i))[0] for i in range(8)] for sampler in (Sampler(fresh, VOCAB) for _ in range(2))]
    assert drawn[0] != drawn[1]


def test_one_draw_a_token() -> None:
    """The n-th token is drawn by the n-th number, whatever the filters were."""
    scores = logits(3)
    narrow = Sampler(Sampling(temperature=1, top_k=1, seed=1), VOCAB)
    wide = Sampler(Sampling(temperature=1, seed=1), VOCAB)
    for _ in range(3):
        narrow.choose(scores)
        wide.choose(scores)
    assert narrow._random is not None and wide._random is not None
    assert narrow._random.random() == wide._random.random()


def test_draws_follow_the_probabilities() -> None:
    sampler = Sampler(Sampling(temperature=1, seed=0), 3)
    scores = np.log(np.array([0.2, 0.5, 0.3], np.float32))
    counts = np.bincount([sampler.choose(scores)[0] for _ in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.2, 0.5, 0.3], atol=0.03)


def test_logprobs_are_the_model_s_own() -> None:
    scores = logits(2)
    wanted = torch.from_numpy(scores).double().log_softmax(-1)
    token, found = Sampler(Sampling(temperature=0.3, top_k=2, seed=1, logprobs=3, logit_bias={9: 50}), VOCAB).choose(
        scores
    )
    assert token == 9 and found is not None
    best = wanted.topk(3)
    assert [index for index, _ in found.top] == best.indices.tolist()
    np.testing.assert_allclose([value for _, value in found.top], best.values.numpy(), atol=1e-9)
    assert found.chosen == pytest.approx(float(wanted[9]), abs=1e-9)
    assert Sampler(Sampling(logprobs=0), VOCAB).choose(scores)[1].top == ()  # type: ignore[union-attr]
    assert Sampler(Sampling(), VOCAB).choose(scores)[1] is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_numbers(temperature: float, wrong: float) -> None:
    scores = logits()
    scores[1234] = wrong
    with pytest.raises(LogitsError, match="not finite numbers"):
        Sampler(Sampling(temperature=temperature, top_k=5), VOCAB).choose(scores)
    with pytest.raises(LogitsError):
        Sampler(Sampling(temperature=temperature), 3).choose(np.full(3, -math.inf, np.float32))


@pytest.mark.parametrize("temperature", [1e-4, 5e-324, 1e30])
def test_any_temperature_gives_numbers(temperature: float) -> None:
    token, _ = Sampler(Sampling(temperature=temperature, seed=-3), VOCAB).choose(logits())
    assert 0 <= token < VOCAB and (temperature > 1 or token == logits().argmax())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -1}, "temperature is -1; it must be at least 0"),
        ({"temperature": math.nan}, "it must be a finite number"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"top_p": 0}, "it must be above 0, up to 1"),
        ({"min_p": 1.1}, "it must be from 0 to 1"),
        ({"repetition_penalty": 0}, "it must be above 0"),
        ({"presence_penalty": math.inf}, "it must be a finite number"),
        ({"logit_bias": {1: math.nan}}, "logit_bias holds a value that is not a number"),
        ({"logit_bias": {3: 1.0}}, "logit_bias names token 3, and the vocabulary is 0 to 2"),
        ({"logprobs": 10**6}, "it must be from 0 to 1000"),
        ({"seed": "x"}, "it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"temperature": "1"}, "temperature is '1'; it must be a number"),
        ({"top_p": None, "min_p": "0"}, "min_p is '0'; it must be a number"),
        ({"logit_bias": {"1": 1.0}}, "it must map token ids, which are whole numbers, to numbers"),
        ({"logit_bias": [1]}, "it must map token ids"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnsupportedOptionError, match=sentence):
        Sampler(Sampling(**options), 3)


def test_numbers_of_numpy_are_numbers() -> None:
    kinds = {"temperature": np.float32, "top_k": np.int64, "seed": np.int64}
    given = {"temperature": 1.5, "top_k": 3, "seed": -7}
    mine, theirs = (
        Sampler(Sampling(**{name: kinds[name](value) if of_numpy else value for name, value in given.items()}), VOCAB)
        for of_numpy in (True, False)
    )
    assert [mine.choose(logits())[0] for _ in range(20)] == [theirs.choose(logits())[0] for _ in range(20)]
