"""How far the distribution of one side's logits departs from that of another's.

In float32 the sum over a vocabulary rounds by more than nearly equal logits differ. In float64 the logits of a long
prompt would take several times the memory that they have, so some rows are taken at a time.

Legend: S positions, R rows at a time, V vocabulary or labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["divergences", "kl_divergence", "log_probabilities"]

_ROWS = 128


def log_probabilities(
    want_SV: torch.Tensor, got_SV: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """The logarithms of both sides' probabilities.

    Args:
        want_SV: Logits of the baseline, of any float dtype.
        got_SV: Those of the other side.

    Yields:
        Which rows, and of both sides ``[R, V]`` float64.
    """
    for start in range(0, len(want_SV), _ROWS):
        rows = slice(start, start + _ROWS)
        want_RV, got_RV = (logits[rows].double().log_softmax(-1) for logits in (want_SV, got_SV))
        yield rows, want_RV, got_RV


def kl_divergence(want_RV: torch.Tensor, got_RV: torch.Tensor) -> torch.Tensor:
    """``KL(want, got)`` in nats of every row ``[R]``, from log-probabilities."""
    return (want_RV.exp() * (want_RV - got_RV)).sum(-1)


def divergences(want_SV: torch.Tensor, got_SV: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The divergence of every position ``[S]`` float64, in nats, and how many have the same most likely token."""
    found = [kl_divergence(want_RV, got_RV) for _, want_RV, got_RV in log_probabilities(want_SV, got_SV)]
    return torch.cat(found), int((want_SV.argmax(-1) == got_SV.argmax(-1)).sum())
