"""What a session reads off a step."""

from __future__ import annotations

import numpy as np

from exaone_export.runtime.core.steps import Step


def test_positions_go_on_where_a_row_stands() -> None:
    step = Step(np.zeros((3, 4), np.int64), [0, 7, 2], [4, 1, 3], kept=[1, 0])
    assert step.positions().tolist() == [[0, 1, 2, 3], [7, -1, -1, -1], [2, 3, 4, -1]]
    assert (step.shape, step.after) == ((3, 4, 2), [4, 8, 5])


def test_positions_of_a_token_a_row() -> None:
    step = Step(np.zeros((2, 1), np.int64), [5, 0], [1, 1])
    assert step.positions().tolist() == [[5], [0]] and step.positions().dtype == np.int64
    assert (step.shape, step.after) == ((2, 1, 1), [6, 1])
