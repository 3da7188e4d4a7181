"""A histogram of magnitudes whose range grows with what it sees, so that one pass is enough."""

from __future__ import annotations

import math

import torch

__all__ = ["BINS", "Histogram"]

BINS = 2048

# `torch.histc` counts in float32, which stops at 2^24: of so many magnitudes, any number of threads counts every one.
_COUNTED_AT_ONCE = 1 << 24


class Histogram:
    """Counts of magnitudes in `BINS` bins of equal width from 0 to `limit`.

    The limit is a power of two. It doubles, and pairs of bins become one, until the largest magnitude fits, so the
    counts do not depend on the order in which magnitudes come.

    Attributes:
        counts: ``[BINS]`` float64, exact whole numbers.
        limit: The upper edge of the last bin; 0 before anything above zero was seen.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0

    def add(self, magnitudes: torch.Tensor, largest: float) -> None:
        """Count magnitudes.

        Args:
            magnitudes: Of any shape, float32, not negative. Those that are not finite are not counted.
            largest: The largest of them; nothing is counted where it is not finite.
        """
        if not math.isfinite(largest):
            return
        if not self.limit and largest:
            # Only zeros were counted so far, and they stay in the first bin.
            self.limit = 2.0 ** math.ceil(math.log2(largest))
        while self.limit < largest:
            self.counts = torch.cat((self.counts.reshape(-1, 2).sum(1), torch.zeros(BINS // 2, dtype=torch.float64)))
            self.limit *= 2
        for part in magnitudes.flatten().split(_COUNTED_AT_ONCE):
            self.counts += torch.histc(part, BINS, 0.0, self.limit or 1.0).double()

    @property
    def edges(self) -> torch.Tensor:
        """``[BINS]`` float64, the upper edge of every bin."""
        return torch.arange(1, BINS + 1, dtype=torch.float64) * (self.limit / BINS)

    @property
    def centers(self) -> torch.Tensor:
        """``[BINS]`` float64, the middle of every bin."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (self.limit / BINS)
