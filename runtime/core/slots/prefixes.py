"""Which of the slots that are free a prompt gets, by what it shares with the tokens that they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["best", "common"]


def best(free: Iterable[Slot], prompt: Sequence[int]) -> Slot:
    """The one that has to run the fewest tokens anew; else an empty one; else that of the oldest conversation."""
    return max(free, key=lambda slot: (slot.reusable(prompt), not slot.tokens, -slot.used))


def common(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens two sequences share at their beginning."""
    size = min(len(held), len(prompt))
    differ = np.flatnonzero(np.array(held[:size], np.int64) != np.array(prompt[:size], np.int64))
    return int(differ[0]) if len(differ) else size
