"""One step of a batch: what a session is given to run.

Legend: B batch, W columns of the step, K positions whose outputs are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Step"]


class Step(NamedTuple):
    """Tokens that every row appends, dense: a row's tokens come first, then padding.

    Attributes:
        input_ids: ``[B, W]`` int64.
        before: Tokens that each row holds before the step.
        counts: Tokens of each row in the step, 1 to W.
        kept: The K positions whose outputs are wanted, counted back from a row's last token of the step.
    """

    input_ids: np.ndarray
    before: Sequence[int]
    counts: Sequence[int]
    kept: Sequence[int] = (0,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, W and K."""
        rows, width = self.input_ids.shape
        return rows, width, len(self.kept)

    @property
    def after(self) -> list[int]:
        """Tokens that each row holds after the step."""
        return [old + new for old, new in zip(self.before, self.counts, strict=True)]

    def positions(self) -> np.ndarray:
        """``[B, W]`` int64, -1 for padding."""
        positions_BW = np.empty(self.input_ids.shape, np.int64)
        self.write_positions(positions_BW)
        return positions_BW

    def write_positions(self, positions_BW: np.ndarray) -> None:
        """Write `positions` into an array."""
        width = positions_BW.shape[1]
        if width == 1:  # every token of an answer comes this way
            positions_BW[:, 0] = self.before
            return
        positions_BW[:] = np.array(self.before)[:, None] + np.arange(width)
        if min(self.counts) < width:
            positions_BW[np.arange(width) >= np.array(self.counts)[:, None]] = -1
