"""Ranges: the magnitude of a product's input that becomes the largest value of a number format."""

from __future__ import annotations

import math

import torch

from exaone_export.calibration.statistics import InputStatistics
from exaone_export.errors import CalibrationError

__all__ = ["check_range", "maximum"]


def maximum(statistics: InputStatistics) -> float:
    """The largest magnitude that was seen, so that nothing of the calibration data is clipped.

    It fits every number format, because it asks only where the data end (Wu et al., 2020, "max" calibration).
    """
    return statistics.channel_maximum.max().item()


def check_range(found: float, channel_maximum: torch.Tensor, where: str) -> None:
    """Raise unless a range is one that a calibration can have found.

    Args:
        found: The range.
        channel_maximum: ``[in]``, the largest magnitude of each channel.
        where: The product, in words.

    Raises:
        CalibrationError: The range is not finite, not above 0, beyond everything that was seen, or the 1 that stands in
            a table before anything is measured.
    """
    reach = channel_maximum.max().item()
    if not math.isfinite(found) or not torch.isfinite(channel_maximum).all():
        raise CalibrationError(f"the range of {where} is not finite ({found}); check the checkpoint and the data.")
    if found <= 0:
        raise CalibrationError(
            f"the range of {where} is {found:g}, and it must be above 0; calibrate with data that reaches it."
        )
    if (found == 1 and reach != 1) or bool((channel_maximum == 1).all()):
        raise CalibrationError(
            f"the range of {where} is 1, which is what stands there before anything is measured; calibrate again."
        )
    if found > reach or bool((channel_maximum < 0).any()):
        raise CalibrationError(
            f"the range of {where} is {found:g}, and its channels reach from {channel_maximum.min().item():g} to "
            f"{reach:g}; calibrate again."
        )
