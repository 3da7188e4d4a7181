"""Every row's tokens arrive once and in order, in steps that a kernel without ragged rows takes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.mirror.dense_steps import dense_steps

COLUMNS = 12


def feed(pads: list[int], cuts: list[int]) -> tuple[list[list[int]], list[tuple[slice, Step]]]:
    """Run every chunk through `dense_steps` as a session would; a step writes at the positions that it names."""
    tokens_BS = np.arange(1, len(pads) * COLUMNS + 1).reshape(len(pads), COLUMNS)
    cache = [[0] * COLUMNS for _ in pads]
    steps = []
    for start, stop in itertools.pairwise(cuts):
        for rows, step in dense_steps(tokens_BS[:, start:stop], start, pads):
            steps.append((rows, step))
            row_step = zip(range(*rows.indices(len(pads))), step.input_ids, step.positions(), step.after, strict=True)
            for row, ids, positions, total in row_step:
                assert total == positions[-1] + 1
                for token, position in zip(ids.tolist(), positions.tolist(), strict=True):
                    cache[row][position] = token
    return cache, steps


@pytest.mark.parametrize("pads", [[0], [5], [0, 0, 0], [0, 3, 7], [4, 4], [2, 11, 0, 6]], ids=str)
@pytest.mark.parametrize("chunk", [1, 2, 5, COLUMNS])
def test_every_token_arrives_at_its_position(pads: list[int], chunk: int) -> None:
    cache, steps = feed(pads, [*range(0, COLUMNS, chunk), COLUMNS])
    for row, pad in enumerate(pads):
        first = row * COLUMNS + 1 + pad
        assert cache[row][: COLUMNS - pad] == list(range(first, row * COLUMNS + COLUMNS + 1))
    for rows, step in steps:
        # No padding at all, and no chunk for several rows but a whole batch's first.
        assert (step.positions() >= 0).all()
        width = step.input_ids.shape[1]
        assert rows.stop - rows.start == 1 or width == 1 or not any(step.before)


def test_rows_run_together_wherever_they_can() -> None:
    _, steps = feed([0, 0, 0], [0, 5, 6, 12])
    assert [rows for rows, _ in steps] == [slice(0, 3), slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)]
    _, steps = feed([0, 3, 9], [0, 5, 6])
    # The third row has padding alone in the first chunk; in the step of one column it runs with the others.
    assert [rows for rows, _ in steps] == [slice(0, 1), slice(1, 2), slice(0, 3)]


def test_columns_of_padding_alone_are_no_step() -> None:
    assert list(dense_steps(np.zeros((2, 3), np.int64), 0, [3, 4])) == []
