"""Evicting behind a step, against a list that keeps what the law keeps."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from exaone_export.runtime.core.eviction import evict
from exaone_export.runtime.core.memory import HOST, Memory
from exaone_export.runtime.sessions.torch_memory import TorchMemory
from exaone_export.targets.cache_layout import CacheLayout, LayerCache

STEP = 7
LAYERS = (LayerCache(8, 8, STEP), LayerCache(11, 8, STEP), LayerCache(64, 0), LayerCache(6, 4, STEP))
LAYOUT = CacheLayout(64, LAYERS)


@pytest.mark.parametrize("memory", [HOST, TorchMemory("cpu")])
@pytest.mark.parametrize("seed", range(20))
def test_after_every_step_the_rows_are_those_of_the_law(seed: int, memory: Memory) -> None:
    rng = random.Random(seed)
    rows = 3
    tensors = [torch.zeros(rows, 2, layer.rows, 1) for layer in LAYERS for _ in range(2)]
    arrays = [tensor.numpy() for tensor in tensors] if memory is HOST else tensors  # the same numbers
    lengths = [0] * rows
    while max(lengths) + STEP <= 64:
        counts = [rng.randint(0, STEP) for _ in range(rows)]
        after = [length + count for length, count in zip(lengths, counts, strict=True)]
        for layer, key, value in zip(LAYERS, tensors[::2], tensors[1::2], strict=True):
            for row in range(rows):
                at = layer.resident_rows(lengths[row])
                # A step writes its padding too: what stands behind a row's tokens is not looked at.
                key[row, :, at : at + STEP] = torch.arange(lengths[row], lengths[row] + STEP)[:, None]
                value[row, :, at : at + STEP] = -torch.arange(lengths[row], lengths[row] + STEP)[:, None]
        evict(arrays, LAYOUT, lengths, after, memory)
        lengths = after
        for layer, key, value in zip(LAYERS, tensors[::2], tensors[1::2], strict=True):
            for row, length in enumerate(lengths):
                wanted = torch.arange(layer.evicted(length), length)
                assert torch.equal(key[row, 0, : len(wanted), 0], wanted)
                assert torch.equal(value[row, 1, : len(wanted), 0], -wanted)


def test_a_layer_that_holds_every_token_is_left_alone() -> None:
    layout = CacheLayout(64, (LayerCache(64, 8),))
    arrays = [np.arange(64.0).reshape(1, 1, 64, 1) for _ in range(2)]
    evict(arrays, layout, [60], [64])
    assert arrays[0].ravel().tolist() == list(range(64))
