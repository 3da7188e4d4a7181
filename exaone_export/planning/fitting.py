"""The longest context and the largest batch that a memory holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .deployment import Deployment
from .memory_plan import MemoryPlan

__all__ = ["Fit", "fit", "largest"]

_MOST_ROWS = 1 << 16
_SHORTEST = 2


@dataclass(frozen=True)
class Fit:
    """What of a deployment fits a memory.

    Attributes:
        memory: Bytes that there are.
        fits: Whether the deployment itself fits.
        longest_context: The longest maximum length with its batch, in tokens; None where not even the shortest fits.
        largest_batch: The most rows with its maximum length; None where not even one fits.
    """

    memory: int
    fits: bool
    longest_context: int | None
    largest_batch: int | None

    def to_dict(self) -> dict[str, int | bool | None]:
        """For JSON."""
        return {
            "memory": self.memory,
            "fits": self.fits,
            "longest_context": self.longest_context,
            "largest_batch": self.largest_batch,
        }


def fit(deployment: Deployment, memory: int) -> Fit:
    """What of a deployment can run in ``memory`` bytes: the machine's, or the GPU's where a GPU runs it."""

    def runs(changed: Deployment) -> bool:
        return MemoryPlan.of(changed).run_peak <= memory

    limit = deployment.spec.max_position_embeddings
    return Fit(
        memory,
        runs(deployment),
        largest(lambda length: runs(deployment.with_length(length)), _SHORTEST, limit),
        largest(lambda rows: runs(deployment.with_batch(rows)), 1, _MOST_ROWS),
    )


def largest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number from ``low`` to ``high`` for which ``holds``, which is false from some number on; or None."""
    if not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
