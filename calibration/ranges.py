"""Ranges: the magnitude of a product's input that becomes the largest value of a number format."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from exaone_export.errors import CalibrationError

from .histogram import BINS
from .number_formats import NumberFormat
from .statistics import InputStatistics

__all__ = ["METHODS", "check_range", "entropy", "maximum", "mean_squared_error", "percentile"]

_FEWEST_BINS = 128  # of a range that is tried: as many as int8 has magnitudes
_STEP = 8  # bins between two ranges that are tried


def maximum(statistics: InputStatistics) -> float:
    """The largest magnitude that was seen, so that nothing of the calibration data is clipped.

    It fits every number format, because it depends only on the data's maximum (Wu et al., 2020, "max" calibration).
    """
    return statistics.channel_maximum.max().item()


def percentile(statistics: InputStatistics, percent: float = 99.99) -> float:
    """The magnitude that ``percent`` of all inputs stay within, to a bin of the histogram (Wu et al., 2020)."""
    counts = statistics.histogram.counts.cumsum(0)
    first = torch.searchsorted(counts, counts[-1] * (percent / 100)).clamp(max=BINS - 1)
    return _within(statistics, statistics.histogram.edges[first].item())


def entropy(statistics: InputStatistics, number_format: NumberFormat) -> float:
    """The range whose rounded histogram is closest to the exact one, by Kullback-Leibler divergence.

    Migacz, "8-bit Inference with TensorRT", 2017: for every range, the exact distribution P has what is clipped in its
    last bin, and Q spreads the count of every value of the format evenly over the bins that hold something and are
    rounded to it; the range with the smallest Kullback-Leibler divergence of Q from P is taken.
    """
    counts = statistics.histogram.counts.clone()
    # Zeros need no step of their own; counted, a product with many of them would get the finest steps there are.
    counts[0] = counts[1]
    bins, codes, _ = _rounded(statistics, number_format)
    inside = torch.arange(BINS) < bins.unsqueeze(1)
    exact = torch.where(inside, counts, 0.0)
    filled = (exact > 0).double()
    per_code = torch.zeros(len(bins), 256, dtype=torch.float64)
    mass, share = per_code.scatter_add(1, codes, exact), per_code.scatter_add(1, codes, filled)
    rounded = (mass / share.clamp(min=1)).gather(1, codes) * filled
    clipped = (counts * ~inside).sum(1)
    exact.scatter_add_(1, bins.unsqueeze(1) - 1, clipped.unsqueeze(1))
    exact /= exact.sum(1, keepdim=True)
    rounded /= rounded.sum(1, keepdim=True)
    # A bin that holds only what was clipped has nothing in Q.
    divergence = torch.where(exact > 0, exact * (exact / rounded.clamp(min=1e-12)).log(), 0.0).sum(1)
    return _within(statistics, _limit(statistics, bins[divergence.argmin()]))


def mean_squared_error(statistics: InputStatistics, number_format: NumberFormat) -> float:
    """The range with the smallest squared error over the histogram, of clipping and rounding together.

    Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference", 2019.
    """
    bins, _, rounded = _rounded(statistics, number_format)
    histogram = statistics.histogram
    errors = ((rounded - histogram.centers).square() * histogram.counts).sum(1)
    return _within(statistics, _limit(statistics, bins[errors.argmin()]))


METHODS: dict[str, Callable[[InputStatistics, NumberFormat], float]] = {
    "max": lambda statistics, _: maximum(statistics),
    "percentile": lambda statistics, _: percentile(statistics),
    "entropy": entropy,
    "mse": mean_squared_error,
}
"""By name, how a range is chosen for a number format."""


def _rounded(
    statistics: InputStatistics, number_format: NumberFormat
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For every range that is tried, what the bins' centers are rounded to.

    Returns:
        The ranges ``[n]`` in bins, codes ``[n, BINS]`` int64 from 0 to 255, and rounded centers ``[n, BINS]`` float64.
    """
    bins = torch.arange(_FEWEST_BINS, BINS + 1, _STEP)
    scale = number_format.scale(bins.float() * (statistics.histogram.limit / BINS)).unsqueeze(1)
    values = number_format.quantize(statistics.histogram.centers.float() / scale)
    # All formats have one byte a value, and centers are not negative.
    return bins, values.view(torch.uint8).long(), values.double() * scale.double()


def _limit(statistics: InputStatistics, bins: torch.Tensor) -> float:
    return bins.item() * statistics.histogram.limit / BINS


def _within(statistics: InputStatistics, found: float) -> float:
    """The range, but no more than was seen; NaN and infinity too, which the histogram does not hold."""
    reach = maximum(statistics)
    return min(found, reach) if math.isfinite(reach) else reach


def check_range(found: float, channel_maximum: torch.Tensor, where: str) -> None:
    """Raise unless a range is one that a calibration can have found.

    Args:
        found: The range.
        channel_maximum: ``[in]``, the largest magnitude of each channel.
        where: The product, as the message names it.

    Raises:
        CalibrationError: The range is not finite, not above 0, or beyond everything that was seen.
    """
    reach = channel_maximum.max().item()
    if not math.isfinite(found) or not torch.isfinite(channel_maximum).all():
        raise CalibrationError(f"the range of {where} is not finite ({found}); check the checkpoint and the data.")
    if found <= 0:
        raise CalibrationError(
            f"the range of {where} is {found:g}, and it must be above 0; calibrate with data that reaches it."
        )
    if found > reach or bool((channel_maximum < 0).any()):
        raise CalibrationError(
            f"the range of {where} is {found:g}, and its channels reach from {channel_maximum.min().item():g} to "
            f"{reach:g}; calibrate again."
        )
