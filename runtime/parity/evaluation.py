"""Evaluation: how far one implementation of a model departs from another on text that neither was calibrated on.

Both sides are loaded and take each sample in turn, so that one sample's logits are held at a time, and of those only
one number a position is kept. (Loaded one after the other, as in a parity check, the first one's logits would have to
wait somewhere: 0.4 MB a token for a vocabulary of 102,400.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from exaone_export.errors import PromptError
from exaone_export.progress import Progress, Step

from .compare import Side
from .divergence import kl_divergence, log_probabilities
from .json_values import json_values

__all__ = ["Evaluation", "Sample", "Scores", "Thresholds", "evaluate"]

ALL = "all"


@dataclass(frozen=True)
class Sample:
    """A text, and the answer that it ends with where it has one to be judged.

    Attributes:
        slice: What it counts to.
        tokens: ``[S]`` int64, the answer and the end of its turn included.
        answer: Index of the answer's first token; None where there is no answer.
    """

    slice: str
    tokens: torch.Tensor
    answer: int | None = None


@dataclass(frozen=True)
class Scores:
    """How the candidate compares on the samples of one slice.

    Attributes:
        slice: Its name.
        samples: How many there are.
        positions: Over how many positions ``kl`` and ``top1`` are taken: all of them.
        kl: Mean Kullback-Leibler divergence of the candidate's next-token distribution from the baseline's, in nats.
        kl_99: The 99th percentile of it over the positions.
        answer_kl: Mean divergence where the tokens of the answers are predicted; None without any.
        top1: Share of positions whose most likely token is the baseline's.
        perplexity: Of the candidate, on the answers where there are any, else on every token but the first.
        baseline_perplexity: Of the baseline, on the same tokens.
        answers: How many samples have an answer.
        accuracy: Share of the answers that the candidate's greedy tokens are, to the end of the turn; None without any,
            or where they were not made.
        baseline_accuracy: That of the baseline.
    """

    slice: str
    samples: int
    positions: int
    kl: float
    kl_99: float
    answer_kl: float | None
    top1: float
    perplexity: float
    baseline_perplexity: float
    answers: int
    accuracy: float | None
    baseline_accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has neither NaN nor infinity: both become None."""
        return json_values(asdict(self))


@dataclass(frozen=True)
class Thresholds:
    """Limits that every slice must keep; None for no limit.

    Attributes:
        max_kl: The largest mean divergence.
        min_accuracy: The smallest accuracy, for slices with answers.
    """

    max_kl: float | None = None
    min_accuracy: float | None = None

    def missed(self, scores: Scores) -> list[str]:
        """The names of the limits that are exceeded."""
        # Written so that a NaN misses.
        missed = [] if self.max_kl is None or scores.kl <= self.max_kl else ["max_kl"]
        if self.min_accuracy is not None and scores.accuracy is not None and not scores.accuracy >= self.min_accuracy:
            missed.append("min_accuracy")
        return missed


@dataclass(frozen=True)
class Evaluation:
    """The result.

    Attributes:
        slices: One record each, in the order in which they were met.
        total: Over all samples; its slice is called ``all``.
        thresholds: The limits.
    """

    slices: list[Scores]
    total: Scores
    thresholds: Thresholds = field(default_factory=Thresholds)

    @property
    def passed(self) -> bool:
        """Whether every threshold holds for every slice, and so for all together."""
        return not any(map(self.thresholds.missed, self.slices))

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has neither NaN nor infinity: both become None."""
        return {
            "passed": self.passed,
            "thresholds": asdict(self.thresholds),
            "total": self.total.to_dict(),
            "slices": [scores.to_dict() for scores in self.slices],
        }


@runtime_checkable
class PromptReader(Protocol):
    """A side that may read prompts in another way than it answers."""

    def answered(self, input_ids: torch.Tensor, prompt: int) -> dict[str, torch.Tensor]:
        """As `Side.outputs`, with the first ``prompt`` tokens read as a prompt, and the others as answers are."""


def evaluate(
    baseline: Side,
    candidate: Side,
    samples: Sequence[Sample],
    thresholds: Thresholds | None = None,
    progress: Progress | None = None,
    *,
    generate: bool = True,
) -> Evaluation:
    """Run both sides on every sample.

    A sample with an answer is also continued from its prompt by both, greedily and through their caches, for as many
    tokens as the answer has.

    Args:
        baseline: The side that the other is compared with.
        candidate: The other.
        samples: At least one; each has two tokens or more, and an answer begins behind at least one.
        thresholds: What every slice must keep.
        progress: Told how far the work is.
        generate: Whether prompts are continued, which takes most of the time; without it there is no accuracy.

    Raises:
        PromptError: There is no sample, or one is too short.
    """
    for i, sample in enumerate(samples):
        if sample.tokens.numel() < 2 or (sample.answer is not None and not 0 < sample.answer < sample.tokens.numel()):
            raise PromptError(f"sample {i} has too few tokens; give it a prompt and something that follows it.")
    if not samples:
        raise PromptError("an evaluation needs at least one sample; give it a line.")
    measured: dict[str, list[_Measured]] = {}
    step = Step(progress, "evaluate", len(samples))
    step(0)
    with torch.inference_mode():
        for sample in samples:
            measured.setdefault(sample.slice, []).append(_measure(baseline, candidate, sample, generate))
            step()
    slices = [_scores(name, of_slice) for name, of_slice in measured.items()]
    total = _scores(ALL, [one for of_slice in measured.values() for one in of_slice])
    return Evaluation(slices, total, thresholds or Thresholds())


@dataclass(frozen=True)
class _Measured:
    """What is kept of one sample; of a pair, the first belongs to the baseline.

    Attributes:
        divergences: ``[S]`` float64.
        judged: The rows that predict the answer's tokens, or all tokens but the first.
        agreed: Rows with the same most likely token.
        losses: Negative log-likelihoods of those tokens, summed.
        answered: Whether there is an answer.
        hits: Whether the greedy tokens are the answer's; None where none were made.
    """

    divergences: torch.Tensor
    judged: slice
    agreed: int
    losses: tuple[float, float]
    answered: bool
    hits: tuple[bool, bool] | None


def _measure(baseline: Side, candidate: Side, sample: Sample, generate: bool) -> _Measured:
    tokens, hits = sample.tokens, None
    if generate and sample.answer is not None:
        prompt, answer = tokens[: sample.answer], tokens[sample.answer :].tolist()
        hits = (baseline.greedy(prompt, len(answer)) == answer, candidate.greedy(prompt, len(answer)) == answer)
    # The row before a token predicts it.
    judged = slice((sample.answer or 1) - 1, len(tokens) - 1)
    want_SV, got_SV = (_outputs(side, sample)["logits"] for side in (baseline, candidate))
    divergences, agreed, losses = [], 0, [torch.zeros(len(tokens) - 1, dtype=torch.float64) for _ in range(2)]
    for rows, *pair_RV in log_probabilities(want_SV, got_SV):
        want_RV, got_RV = pair_RV
        divergences.append(kl_divergence(want_RV, got_RV))
        agreed += int((want_RV.argmax(-1) == got_RV.argmax(-1)).sum())
        following = tokens[1:][rows, None]
        for loss, found_RV in zip(losses, pair_RV, strict=True):
            loss[rows] = -found_RV[: len(following)].gather(-1, following)[:, 0]
    theirs, ours = (float(loss[judged].sum()) for loss in losses)
    return _Measured(torch.cat(divergences), judged, agreed, (theirs, ours), sample.answer is not None, hits)


def _outputs(side: Side, sample: Sample) -> dict[str, torch.Tensor]:
    if sample.answer is not None and isinstance(side, PromptReader):
        return side.answered(sample.tokens, sample.answer)
    return side.outputs(sample.tokens)


def _scores(name: str, measured: Sequence[_Measured]) -> Scores:
    divergences = torch.cat([one.divergences for one in measured])
    of_answers = [one.divergences[one.judged] for one in measured if one.answered]
    predicted = sum(one.judged.stop - one.judged.start for one in measured)
    perplexities = [_exp(sum(one.losses[side] for one in measured) / predicted) for side in (0, 1)]
    hits = [one.hits for one in measured if one.hits is not None]
    accuracies = [sum(pair[side] for pair in hits) / len(hits) if hits else None for side in (0, 1)]
    return Scores(
        slice=name,
        samples=len(measured),
        positions=len(divergences),
        kl=divergences.mean().item(),
        kl_99=divergences.kthvalue(math.ceil(0.99 * len(divergences))).values.item(),
        answer_kl=torch.cat(of_answers).mean().item() if of_answers else None,
        top1=sum(one.agreed for one in measured) / len(divergences),
        perplexity=perplexities[1],
        baseline_perplexity=perplexities[0],
        answers=len(of_answers),
        accuracy=accuracies[1],
        baseline_accuracy=accuracies[0],
    )


def _exp(value: float) -> float:
    """``math.exp``, with infinity where that overflows."""
    return math.inf if value > 709 else math.exp(value)
