"""The best spans of a context as answers to a question."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Span", "best_spans"]


@dataclass(frozen=True)
class Span:
    """Tokens ``first`` to ``last`` of a context, both included, and their score."""

    first: int
    last: int
    score: float


def best_spans(start_S: torch.Tensor, end_S: torch.Tensor, *, most_tokens: int, count: int) -> list[Span]:
    """Spans by score: the product of two softmaxes over the context, of where an answer starts and where it ends.

    That is the score of transformers' ``QuestionAnsweringPipeline``, which version 5 left out.

    Args:
        start_S: ``[S]`` float32 logits of the context's tokens.
        end_S: The same.
        most_tokens: The longest span.
        count: The most spans.
    """
    starts, ends = start_S.softmax(-1), end_S.softmax(-1)
    tokens = len(starts)
    found: list[Span] = []
    # One length at a time, because all pairs of a long context's tokens would not fit the memory.
    for length in range(min(most_tokens, tokens)):
        scores, first = (starts[: tokens - length] * ends[length:]).topk(min(count, tokens - length))
        spans = [Span(at, at + length, score) for at, score in zip(first.tolist(), scores.tolist(), strict=True)]
        found = sorted([*found, *spans], key=lambda span: -span.score)[:count]
    return found
