from __future__ import annotations

import numpy as np
import pytest
import torch

from exaone_export.errors import PromptError, UnsupportedOptionError
from exaone_export.runtime.mirror.packing import check_positions, left_pads, pack, split


def test_padding_is_read_from_the_mask() -> None:
    assert left_pads(torch.tensor([[0, 0, 1], [1, 1, 1]]), 2, 3, []) == [2, 0]
    assert left_pads(torch.tensor([[0.0, 1.0, 1.0]]), 1, 3, [1]) == [1]
    assert left_pads(None, 2, 3, [0, 0]) == [0, 0]


@pytest.mark.parametrize(
    ("mask", "known", "message"),
    [
        ([[1, 0, 1]], [], "a 0 behind a 1"),
        ([[1, 1, 0]], [], "padding_side='left'"),
        ([[1, 1]], [], r"shape \[1, 2\] and must have \[1, 3\]"),
        ([[0, 0, 0]], [], "row 0 of the batch holds no token"),
        ([[0, 1, 1]], [0], r"pads the rows by \[1\] columns, but past_key_values was filled with \[0\]"),
    ],
)
def test_a_mask_that_is_no_left_padding_is_refused(mask: list[list[int]], known: list[int], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        left_pads(torch.tensor(mask), 1, 3, known)


def test_a_padded_cache_wants_its_mask_back() -> None:
    with pytest.raises(PromptError, match="attention_mask is missing"):
        left_pads(None, 1, 3, [1])


def test_a_mask_of_more_dimensions_is_refused() -> None:
    with pytest.raises(UnsupportedOptionError, match="must have two dimensions"):
        left_pads(torch.ones(1, 1, 3, 3), 1, 3, [])


@pytest.mark.parametrize(
    "position_ids",
    [[[0, 0, 1, 2], [0, 1, 2, 3]], [[9, 0, 1, 2], [0, 1, 2, 3]], [[0, 1, 2, 3]] * 2, [[0, 1, 2, 3]], None],
)
def test_positions_that_count_a_rows_tokens_are_taken(position_ids: list[list[int]] | None) -> None:
    check_positions(None if position_ids is None else torch.tensor(position_ids), (2, 4), 0, [1, 0])


@pytest.mark.parametrize(
    ("position_ids", "shape", "past"),
    [
        ([[0, 1, 2, 4]], (1, 4), 0),
        ([[1, 2, 3, 4]], (1, 4), 0),
        ([[0, 1, 2]], (1, 4), 0),
        ([[4]], (1, 1), 5),
        ([[[0, 1, 2, 3]]], (1, 4), 0),
    ],
)
def test_other_positions_are_refused(position_ids: list[list[int]], shape: tuple[int, int], past: int) -> None:
    with pytest.raises(UnsupportedOptionError, match="position_ids must count"):
        check_positions(torch.tensor(position_ids), shape, past, [0])


def test_one_more_column_may_be_counted_either_way() -> None:
    check_positions(torch.tensor([[5], [3]]), (2, 1), 5, [0, 2])
    check_positions(torch.tensor([[5]]), (2, 1), 5, [0, 2])


def test_steps_are_short_where_they_are_judged() -> None:
    assert list(split(20, 11, 8, 3)) == [(0, 8), (8, 11), (11, 14), (14, 17), (17, 20)]
    assert list(split(20, 20, 8, 0)) == [(0, 8), (8, 16), (16, 20)]
    assert list(split(5, 0, 2, 9)) == [(0, 2), (2, 4), (4, 5)]


def test_rows_are_made_dense() -> None:
    step = pack(np.array([[7, 8, 9], [0, 0, 5], [0, 0, 0]]), 0, [0, 2, 4])
    assert step is not None
    assert step.input_ids[:2].tolist() == [[7, 8, 9], [5, 5, 5]]
    assert step.positions().tolist() == [[0, 1, 2], [0, -1, -1], [0, -1, -1]]
    assert step.after == [3, 1, 1]  # the last row is empty, and no runtime takes an empty row


def test_a_later_step_goes_on_where_the_row_stands() -> None:
    step = pack(np.array([[7, 8], [0, 5]]), 4, [0, 5])
    assert step is not None
    assert step.positions().tolist() == [[4, 5], [0, -1]]
    assert step.after == [6, 1]


def test_a_step_of_padding_alone_is_left_out() -> None:
    assert pack(np.zeros((2, 3), np.int64), 2, [5, 6]) is None
