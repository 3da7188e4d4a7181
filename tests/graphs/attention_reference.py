"""Hybrid attention over whole sequences, written as plainly as it can be: what every kernel must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

HEADS, KV_HEADS, HEAD_DIM, MAX_LENGTH, EPSILON = 4, 2, 16, 64, 1e-5
SCALE = HEAD_DIM**-0.5


@dataclass
class Weights:
    """What a layer's attention holds beside its projections."""

    q_norm: np.ndarray
    k_norm: np.ndarray
    cos: np.ndarray
    sin: np.ndarray


def make_weights(rng: np.random.Generator) -> Weights:
    """Norm weights away from one, and angles of the usual kind."""
    angles = np.outer(np.arange(MAX_LENGTH), 100.0 ** -(np.arange(HEAD_DIM // 2) / HEAD_DIM * 2))
    norm = rng.uniform(0.5, 1.5, (2, HEAD_DIM)).astype(np.float32)
    return Weights(*norm, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def attend(qkv: np.ndarray, weights: Weights, window: int, rotary: bool) -> np.ndarray:
    """``[S, (HEADS + 2 KV_HEADS) * HEAD_DIM]`` to ``[S, HEADS * HEAD_DIM]``, one query at a time, in float64."""
    length = len(qkv)
    heads = qkv.astype(np.float64).reshape(length, HEADS + 2 * KV_HEADS, HEAD_DIM)
    query, key, value = np.split(heads, (HEADS, HEADS + KV_HEADS), axis=1)
    query, key = _norm(query, weights.q_norm), _norm(key, weights.k_norm)
    if rotary:
        query, key = (_rotate(x, weights) for x in (query, key))
    out = np.zeros((length, HEADS, HEAD_DIM))
    for i in range(length):
        oldest = max(i - window + 1, 0) if window else 0
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            scores = key[oldest : i + 1, group] @ query[i, head] * SCALE
            share = np.exp(scores - scores.max())
            out[i, head] = share / share.sum() @ value[oldest : i + 1, group]
    return out.reshape(length, -1)


def _norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * weight


def _rotate(x: np.ndarray, weights: Weights) -> np.ndarray:
    first, second = np.split(x, 2, axis=-1)
    cos, sin = (table[: len(x), None].astype(np.float64) for table in (weights.cos, weights.sin))
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), -1)


@dataclass
class Rows:
    """Sequences of different lengths, fed in ragged chunks; everything behind a row's end is NaN.

    Attributes:
        tokens: One ``[length, width]`` a row.
        outputs: What the kernel has given for each row so far.
    """

    tokens: list[np.ndarray]
    outputs: list[list[np.ndarray]] = field(default_factory=list)

    def chunks(self, size: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per step: ``qkv [B, size, width]``, ``past_lengths [B]`` and ``query_lengths [B]``."""
        width, steps = self.tokens[0].shape[1], -(-max(map(len, self.tokens)) // size)
        chunks = []
        for step in range(steps):
            past = np.array([min(step * size, len(row)) for row in self.tokens])
            count = np.array([min(size, len(row) - start) for row, start in zip(self.tokens, past, strict=True)])
            qkv = np.full((len(self.tokens), size, width), np.nan, np.float32)
            for b, row in enumerate(self.tokens):
                qkv[b, : count[b]] = row[past[b] : past[b] + count[b]]
            chunks.append((qkv, past, count))
        return chunks


def make_rows(rng: np.random.Generator, lengths: tuple[int, ...]) -> Rows:
    """Random rows."""
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    return Rows([rng.standard_normal((length, width)).astype(np.float32) for length in lengths])
