"""Samples that run through a layer together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .data import Sample

__all__ = ["Batch", "batches"]

_MOST_TOKENS = 2048


@dataclass(frozen=True)
class Batch:
    """Samples of one slice and one length, so that none needs padding.

    Attributes:
        tokens: ``[B, S]`` int64.
        slice: Label of the samples.
    """

    tokens: torch.Tensor
    slice: str


def batches(samples: Sequence[Sample], most_tokens: int = _MOST_TOKENS) -> list[Batch]:
    """Put samples of one slice and one length together, up to so many tokens, in the order of the first of each."""
    groups: dict[tuple[str, int], list[torch.Tensor]] = {}
    for sample in samples:
        groups.setdefault((sample.slice, sample.tokens.shape[1]), []).append(sample.tokens)
    found = []
    for (label, length), tokens in groups.items():
        rows = max(most_tokens // length, 1)
        found += [Batch(torch.cat(tokens[i : i + rows]), label) for i in range(0, len(tokens), rows)]
    return found
