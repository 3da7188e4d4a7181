"""Metrics of an evaluation, against sums written out, on models whose next token depends on the last one alone."""

from __future__ import annotations

import json
import math

import pytest
import torch

from exaone_export.errors import PromptError
from exaone_export.runtime.parity.evaluation import Evaluation, Sample, Thresholds, evaluate

VOCAB = 11


class Bigram:
    """A whole model: row i of the table holds the logits behind token i."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def outputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.table[input_ids]}

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        tokens = [int(input_ids[-1])]
        for _ in range(new_tokens):
            tokens.append(int(self.table[tokens[-1]].argmax()))
        return tokens[1:]

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        raise AssertionError("an evaluation asks for no layers")


@pytest.fixture
def models() -> tuple[Bigram, Bigram]:
    """A model, and the same one somewhat blurred."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(VOCAB, VOCAB, generator=generator)
    return Bigram(table), Bigram(table + 0.3 * torch.randn(VOCAB, VOCAB, generator=generator))


def text(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def probabilities(model: Bigram, token: int) -> list[float]:
    weights = [math.exp(value) for value in model.table[token].double().tolist()]
    return [weight / sum(weights) for weight in weights]


def divergence(one: Bigram, other: Bigram, token: int) -> float:
    pairs = zip(probabilities(one, token), probabilities(other, token), strict=True)
    return sum(p * math.log(p / q) for p, q in pairs)


def perplexity(model: Bigram, tokens: list[int], first: int) -> float:
    losses = [-math.log(probabilities(model, tokens[i - 1])[tokens[i]]) for i in range(first, len(tokens))]
    return math.exp(sum(losses) / len(losses))


# 300 tokens are three blocks of rows, and an answer may begin in any of them.
@pytest.mark.parametrize(("length", "answer"), [(2, None), (2, 1), (300, None), (300, 1), (300, 200), (129, 128)])
def test_metrics_are_their_definitions(models: tuple[Bigram, Bigram], length: int, answer: int | None) -> None:
    one, other = models
    tokens = text(length)
    scores = evaluate(one, other, [Sample("only", tokens, answer)]).total
    rows = [divergence(one, other, token) for token in tokens.tolist()]
    assert scores.positions == length
    assert scores.kl == pytest.approx(sum(rows) / length, rel=1e-5)
    assert scores.kl_99 == pytest.approx(sorted(rows)[math.ceil(0.99 * length) - 1], rel=1e-5)
    same = [int(one.table[token].argmax()) == int(other.table[token].argmax()) for token in tokens.tolist()]
    assert scores.top1 == sum(same) / length
    first = 1 if answer is None else answer
    assert scores.baseline_perplexity == pytest.approx(perplexity(one, tokens.tolist(), first), rel=1e-5)
    assert scores.perplexity == pytest.approx(perplexity(other, tokens.tolist(), first), rel=1e-5)
    if answer is None:
        assert scores.answer_kl is scores.accuracy is scores.baseline_accuracy is None
    else:
        judged = rows[answer - 1 : -1]
        assert scores.answer_kl == pytest.approx(sum(judged) / len(judged), rel=1e-5)


def test_the_divergence_is_from_the_baseline(models: tuple[Bigram, Bigram]) -> None:
    one, other = models
    there, back = (evaluate(*pair, [Sample("only", text(50))]).total.kl for pair in ((one, other), (other, one)))
    assert there != pytest.approx(back, rel=1e-3)


def test_an_answer_counts_when_every_token_of_it_is_given(models: tuple[Bigram, Bigram]) -> None:
    one, other = models
    other.table[5] = -other.table[5]
    answer = one.greedy(torch.tensor([5]), 4)
    tokens = torch.tensor([3, 5, *answer])
    last_wrong = tokens.clone()
    last_wrong[-1] = (last_wrong[-1] + 1) % VOCAB
    samples = [Sample("right", tokens, 2), Sample("wrong", last_wrong, 2), Sample("none", tokens)]
    right, wrong, none = evaluate(one, other, samples).slices
    assert (right.baseline_accuracy, right.accuracy) == (1.0, 0.0)
    assert (wrong.baseline_accuracy, wrong.accuracy) == (0.0, 0.0)
    assert (none.baseline_accuracy, none.accuracy, none.answers) == (None, None, 0)
    total = evaluate(one, one, samples).total
    assert (total.accuracy, total.answers, total.samples) == (0.5, 2, 3)


def test_answers_are_not_generated_where_that_is_not_wanted(
    models: tuple[Bigram, Bigram], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [Sample("only", text(20), 15)]
    wanted = evaluate(*models, samples).total
    monkeypatch.delattr(Bigram, "greedy")
    total = evaluate(*models, samples, generate=False).total
    assert (total.answers, total.accuracy, total.baseline_accuracy) == (1, None, None)
    assert (total.kl, total.answer_kl, total.perplexity) == (wanted.kl, wanted.answer_kl, wanted.perplexity)


def test_slices_are_kept_apart_and_the_total_weighs_positions(models: tuple[Bigram, Bigram]) -> None:
    one, other = models
    samples = [Sample("long", text(90)), Sample("short", text(10, seed=1)), Sample("long", text(60, seed=2))]
    result = evaluate(one, other, samples)
    long, short = result.slices
    assert [(scores.slice, scores.samples, scores.positions) for scores in (long, short, result.total)] == [
        ("long", 2, 150),
        ("short", 1, 10),
        ("all", 3, 160),
    ]
    assert result.total.kl == pytest.approx((150 * long.kl + 10 * short.kl) / 160)
    assert short == evaluate(one, other, samples[1:2]).slices[0]


def test_a_threshold_holds_for_every_slice(models: tuple[Bigram, Bigram]) -> None:
    one, other = models
    good, bad = Sample("good", torch.tensor([3, 4, 3, 4] * 30)), Sample("bad", torch.tensor([7, 8]))
    other.table[[3, 4]] = one.table[[3, 4]]
    result = evaluate(one, other, [good, bad])
    limit = (result.total.kl + result.slices[1].kl) / 2
    assert not Evaluation(result.slices, result.total, Thresholds(max_kl=limit)).passed
    assert Evaluation(result.slices, result.total, Thresholds(max_kl=result.slices[1].kl)).passed
    assert Evaluation(result.slices, result.total).passed
    assert Thresholds(max_kl=limit).missed(result.slices[0]) == []

    answers = [Sample("right", torch.tensor([5, *one.greedy(torch.tensor([5]), 2)]), 1), Sample("none", text(9))]
    assert evaluate(one, one, answers, Thresholds(min_accuracy=1.0)).passed
    answers[0].tokens[-1] += 1 if answers[0].tokens[-1] == 0 else -1
    missed = evaluate(one, one, answers, Thresholds(min_accuracy=0.5))
    assert not missed.passed
    assert [missed.thresholds.missed(scores) for scores in missed.slices] == [["min_accuracy"], []]


def test_what_is_not_finite_misses_and_is_no_number_in_json(models: tuple[Bigram, Bigram]) -> None:
    one, other = models
    other.table[:, 0] = math.nan
    result = evaluate(one, other, [Sample("only", text(20))], Thresholds(max_kl=1e9))
    assert not result.passed
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["passed"] is False
    assert content["total"]["kl"] is None
    assert content["total"]["baseline_perplexity"] > 1


def test_an_impossible_token_has_infinite_perplexity(models: tuple[Bigram, Bigram]) -> None:
    one, other = models
    other.table = torch.zeros_like(other.table)
    other.table[:, 1] = -5000.0
    assert evaluate(one, other, [Sample("only", torch.tensor([2, 1]))]).total.perplexity == math.inf


def test_nothing_to_judge_is_refused(models: tuple[Bigram, Bigram]) -> None:
    refused = [[], [Sample("x", text(1))], [Sample("x", text(5), 5)], [Sample("x", text(5)), Sample("x", text(5), 0)]]
    for samples in refused:
        with pytest.raises(PromptError):
            evaluate(*models, samples)


def test_progress_is_told(models: tuple[Bigram, Bigram]) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(*models, [Sample("x", text(5))] * 2, progress=lambda *step: told.append(step))
    assert told == [("evaluate", 0, 2), ("evaluate", 1, 2), ("evaluate", 2, 2)]
