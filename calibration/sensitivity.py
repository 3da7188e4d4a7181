"""Mixed precision: which layers are worth their bytes in a higher one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

from exaone_export.errors import CalibrationError

__all__ = ["keep_precise", "rank"]

Key = TypeVar("Key", bound=Hashable)


def rank(gain: Mapping[Key, float], cost: Mapping[Key, int]) -> list[Key]:
    """Keys by falling gain per byte; those of equal worth in the order of ``gain``.

    Args:
        gain: By what could be kept precise (a layer, or a part of one), how much it lowers the divergence (KL, in
            nats) of the quantized model from the exact one. Measured one key at a time: what several of them gain
            together is taken to be the sum, as in HAWQ-V2 (Dong et al., 2019).
        cost: The bytes that each takes more, above 0.

    Returns:
        Every key.

    Raises:
        CalibrationError: A gain is not a number, or a cost is missing or not above 0.
    """
    for key, value in gain.items():
        if math.isnan(value):
            raise CalibrationError(f"the gain of keeping {key} precise is not a number; measure it again.")
        if cost.get(key, 0) <= 0:
            raise CalibrationError(f"the cost of keeping {key} precise is {cost.get(key)}, and it must be above 0.")
    return sorted(gain, key=lambda key: -gain[key] / cost[key])


def keep_precise(gain: Mapping[Key, float], cost: Mapping[Key, int], budget: int) -> frozenset[Key]:
    """Choose what to keep in the higher precision, by falling gain per byte, as long as it fits.

    This is the greedy answer to the knapsack problem (Dantzig, 1957): what does not fit is passed over, and what comes
    behind it may still. A key without gain is never chosen.

    Args:
        gain: As `rank`'s.
        cost: As `rank`'s.
        budget: The bytes that all of them together may take more.

    Returns:
        The chosen keys; none where nothing fits.

    Raises:
        CalibrationError: As `rank`'s.
    """
    chosen = []
    for key in rank(gain, cost):
        if gain[key] > 0 and cost[key] <= budget:
            chosen.append(key)
            budget -= cost[key]
    return frozenset(chosen)
