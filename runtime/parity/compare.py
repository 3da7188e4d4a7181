"""Parity: several implementations of one model on the same prompts, collected first and judged afterwards.

A `Side` gives what the model's head gives at every position, of a causal language model greedy tokens too and, where
it can, every layer's output. The first side is the baseline; the others are judged by how far they depart from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from exaone_export.errors import PromptError
from exaone_export.model.heads import CAUSAL_LM_HEAD, HeadSpec
from exaone_export.progress import Progress

from .divergence import divergences
from .json_values import json_values


class Side(Protocol):
    """One implementation, loaded."""

    def outputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """``[S]`` int64 to what the head gives for every token, by its name in a graph, each ``[S, …]`` float32.

        The names and the shapes for one token are those of `exaone_export.model.spec.ModelSpec.output_shapes`.
        """

    def greedy(self, input_ids: torch.Tensor, new_tokens: int) -> list[int]:
        """Exactly ``new_tokens`` greedy tokens after ``[S]`` int64; end-of-turn tokens are tokens like any other."""

    def layers(self, input_ids: torch.Tensor) -> list[torch.Tensor]:
        """Every layer's output for ``[S]`` int64, each ``[S, hidden_size]`` float32."""


Opener = Callable[[], AbstractContextManager[Side]]


@dataclass(frozen=True)
class Limits:
    """How far a side may depart.

    Attributes:
        logits: Largest difference of an output, logits or hidden states, as a share of the standard deviation of the
            baseline's.
        kl: Mean Kullback-Leibler divergence of the distributions over tokens or labels from the baseline's, in nats.
        tokens: Whether every greedy token must be the baseline's.
    """

    logits: float
    kl: float
    tokens: bool


# float32 has the specification's limit; the others round, so there a near tie may fall either way. Those of quantized
# precisions tell a broken scale from rounding, not a good calibration from a better one.
LIMITS = {
    "float32": Limits(logits=1e-4, kl=1e-8, tokens=True),
    "float16": Limits(logits=5e-2, kl=1e-4, tokens=False),
    "bfloat16": Limits(logits=5e-1, kl=1e-2, tokens=False),
    "int8-weights": Limits(logits=1.0, kl=2e-2, tokens=False),
    "fp8": Limits(logits=2.0, kl=1e-1, tokens=False),
    "int8": Limits(logits=5.0, kl=4e-1, tokens=False),
    "int4": Limits(logits=5.0, kl=4e-1, tokens=False),
}


@dataclass(frozen=True)
class Row:
    """How one side departs from the baseline on one prompt.

    Attributes:
        side: Its name.
        prompt_tokens: Length of the prompt.
        logits: Largest difference over all positions and outputs, as a share of the baseline output's standard
            deviation.
        kl: Mean divergence over all positions, in nats; None where the head gives no distribution.
        top1: Share of positions whose most likely token or label is the baseline's; None likewise.
        new_tokens: Greedy tokens compared.
        first_difference: Index of the first greedy token that differs; None where none does.
        first_layer: First layer that departs, if it was searched for and there is one.
        passed: Whether the side's limits hold.
    """

    side: str
    prompt_tokens: int
    logits: float
    kl: float | None
    top1: float | None
    new_tokens: int
    first_difference: int | None
    first_layer: int | None
    passed: bool


@dataclass(frozen=True)
class Report:
    """The judged comparison.

    Attributes:
        baseline: Name of the side that the others are compared with.
        limits: Each side's limits, by name.
        rows: One for every other side and prompt.
    """

    baseline: str
    limits: dict[str, Limits]
    rows: list[Row]

    @property
    def passed(self) -> bool:
        """Whether every row passed."""
        return all(row.passed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has neither NaN nor infinity: both become None."""
        return json_values({"passed": self.passed, **asdict(self)})

    def summary(self, side: str) -> dict[str, Any]:
        """The worst of one side's rows, for a manifest; None for a figure that is not finite."""
        rows = [row for row in self.rows if row.side == side]
        divergent = [row.kl for row in rows if row.kl is not None]
        return json_values(
            {
                "baseline": self.baseline,
                "passed": all(row.passed for row in rows),
                "logits": float(np.max([row.logits for row in rows])),  # Python's max would lose a NaN
                "kl": float(np.max(divergent)) if divergent else None,
                "prompt_tokens": [row.prompt_tokens for row in rows],
                "new_tokens": max(row.new_tokens for row in rows),
                "same_tokens": all(row.first_difference is None for row in rows),
            }
        )


@dataclass
class Collected:
    """What one side gave, one entry a prompt.

    Attributes:
        outputs: What the head gives by name, each ``[S, …]`` float32.
        tokens: Greedy tokens.
        layers: Every layer's output, each ``[S, hidden_size]`` float32; empty if they were not requested.
    """

    outputs: list[dict[str, torch.Tensor]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    layers: list[list[torch.Tensor]] = field(default_factory=list)


def compare(
    sides: dict[str, tuple[Opener, Limits]],
    prompts: Sequence[torch.Tensor],
    *,
    new_tokens: int,
    locate: bool = False,
    head: HeadSpec = CAUSAL_LM_HEAD,
    progress: Progress | None = None,
) -> Report:
    """Run every side on every prompt, and judge when all have run.

    Args:
        sides: By name, what opens a side and its limits; the first is the baseline.
        prompts: ``[S]`` int64 each.
        new_tokens: Greedy tokens to compare after each prompt.
        locate: Whether to find the first layer that departs.
        head: The head of the model.
        progress: Told how far the work is.

    Raises:
        PromptError: There is no prompt, or an empty one.
    """
    openers = {name: opener for name, (opener, _) in sides.items()}
    collected = collect(openers, prompts, new_tokens=new_tokens, locate=locate, progress=progress)
    return judge(collected, {name: limits for name, (_, limits) in sides.items()}, head)


def collect(
    openers: dict[str, Opener],
    prompts: Sequence[torch.Tensor],
    *,
    new_tokens: int,
    locate: bool = False,
    progress: Progress | None = None,
) -> dict[str, Collected]:
    """Run every side on every prompt, one side loaded at a time; see `compare`."""
    if not prompts or any(prompt.numel() == 0 for prompt in prompts):
        raise PromptError("a parity check needs at least one prompt of at least one token: pass --length 1 or more.")
    return {name: _collect(name, opener, prompts, new_tokens, locate, progress) for name, opener in openers.items()}


def judge(collected: dict[str, Collected], limits: dict[str, Limits], head: HeadSpec = CAUSAL_LM_HEAD) -> Report:
    """Compare what every side gave with what the first one gave; see `compare`."""
    baseline, *others = collected
    rows = [
        _judge(name, limits[name], head, i, collected[baseline], collected[name])
        for name in others
        for i in range(len(collected[baseline].outputs))
    ]
    return Report(baseline, {name: limits[name] for name in others}, rows)


def random_prompts(vocab_size: int, lengths: Sequence[int], seed: int) -> list[torch.Tensor]:
    """Prompts of uniformly random tokens, one of every length, each ``[S]`` int64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocab_size, (length,), generator=generator) for length in lengths]


def default_lengths(window: int, max_length: int, new_tokens: int) -> list[int]:
    """Prompt lengths on both sides of the window, as far as the cache holds them with their answer.

    For a model without windows: a short and a longer prompt.
    """
    wanted = [window // 2, window - 1, window + 2, 3 * window] if window else [16, 256]
    lengths = sorted({min(length, max_length - new_tokens) for length in wanted if length > 0})
    if not lengths or lengths[0] < 1:
        raise PromptError(
            f"{new_tokens} new tokens leave no room for a prompt in {max_length}: pass a smaller --tokens."
        )
    return lengths


def _collect(
    name: str, opener: Opener, prompts: Sequence[torch.Tensor], new_tokens: int, locate: bool, progress: Progress | None
) -> Collected:
    found = Collected()
    with opener() as side, torch.inference_mode():
        for i, prompt in enumerate(prompts):
            if progress is not None:
                progress(name, i, len(prompts))
            found.outputs.append(side.outputs(prompt))
            found.tokens.append(side.greedy(prompt, new_tokens) if new_tokens else [])
            if locate:
                found.layers.append(side.layers(prompt))
    return found


def spread(output: torch.Tensor) -> float:
    """What a difference is a share of: the standard deviation, or the magnitude of a single number, which has none."""
    return (output.std() if output.numel() > 1 else output.abs().max()).item()


def _share(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """The largest difference as a share of `spread`; 0 of equal outputs, though they may all be one number."""
    largest = (got - want).abs().max()
    return largest / spread(want) if largest else largest


def _judge(name: str, limits: Limits, head: HeadSpec, i: int, wanted: Collected, found: Collected) -> Row:
    want, got = wanted.outputs[i], found.outputs[i]
    largest = torch.stack([_share(want[output], got[output]) for output in want]).max().item()
    kl = top1 = None
    if head.is_causal_lm or _tells_labels_apart(head):
        found_kl, agreed = divergences(want["logits"], got["logits"])
        kl, top1 = found_kl.mean().item(), agreed / len(found_kl)
    pairs = zip(wanted.tokens[i], found.tokens[i], strict=True)
    first_difference = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    # Written so that a NaN fails.
    passed = (
        largest <= limits.logits
        and (kl is None or kl <= limits.kl)
        and not (limits.tokens and first_difference is not None)
    )
    return Row(
        side=name,
        prompt_tokens=len(next(iter(want.values()))),
        logits=largest,
        kl=kl,
        top1=top1,
        new_tokens=len(wanted.tokens[i]),
        first_difference=first_difference,
        first_layer=_first_layer(wanted.layers[i], found.layers[i], limits.logits) if wanted.layers else None,
        passed=passed,
    )


def _tells_labels_apart(head: HeadSpec) -> bool:
    """Whether a classification's logits are of one distribution: not of a number, nor of labels on their own."""
    return len(head.labels) > 1 and head.problem_type in (None, "single_label_classification")


def _first_layer(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor], limit: float) -> int | None:
    for i, (want, got) in enumerate(zip(wanted, found, strict=True)):
        if not (got - want).abs().max() <= limit * want.std():
            return i
    return None
