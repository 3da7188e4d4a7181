"""Batches of texts of like lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

__all__ = ["batches", "padded"]

_MOST_TOKENS = 1 << 14
"""Of a batch with its padding, where it has several rows: what a head gives of it is in memory at once."""


def batches(lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Indices into ``lengths``, the longest first, in batches of at most ``rows``."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == rows or (len(batch) + 1) * lengths[batch[0]] > _MOST_TOKENS):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padded(tokens: Sequence[np.ndarray], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``input_ids`` and ``attention_mask``, each ``[B, S]`` int64, padded on the left."""
    shape = len(tokens), max(map(len, tokens))
    input_ids, mask = torch.full(shape, pad, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    for row, row_tokens in enumerate(tokens):
        input_ids[row, -len(row_tokens) :] = torch.from_numpy(row_tokens)
        mask[row, -len(row_tokens) :] = 1
    return input_ids, mask
