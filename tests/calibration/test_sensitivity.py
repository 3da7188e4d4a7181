"""What is kept precise: the most divergence saved for each byte, within a budget."""

from __future__ import annotations

import pytest

from exaone_export.calibration.sensitivity import keep_precise, rank
from exaone_export.errors import CalibrationError

GAIN = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.0, "e": -1.0}
COST = {"a": 1, "b": 6, "c": 2, "d": 1, "e": 1}


def test_keys_are_ranked_by_gain_per_byte() -> None:
    assert rank(GAIN, COST) == ["a", "c", "b", "d", "e"]
    assert rank({3: 1.0, 1: 1.0, 2: 1.0}, {1: 1, 2: 1, 3: 1}) == [3, 1, 2]


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(0, ""), (1, "a"), (2, "a"), (3, "ac"), (6, "ac"), (7, "ac"), (8, "ac"), (9, "abc"), (100, "abc")],
)
def test_the_budget_is_spent_on_the_best_and_on_nothing_without_gain(budget: int, kept: str) -> None:
    assert keep_precise(GAIN, COST, budget) == frozenset(kept)


def test_what_does_not_fit_is_passed_over() -> None:
    assert keep_precise({"large": 9.0, "small": 1.0}, {"large": 5, "small": 1}, 2) == {"small"}


@pytest.mark.parametrize(
    ("gain", "cost", "words"),
    [
        ({"x": float("nan")}, {"x": 1}, "the gain of keeping x precise is not a number"),
        ({"x": 1.0}, {}, "the cost of keeping x precise is None"),
        ({"x": 1.0}, {"x": 0}, "the cost of keeping x precise is 0, and it must be above 0"),
    ],
)
def test_what_was_not_measured_is_refused(gain: dict[str, float], cost: dict[str, int], words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        keep_precise(gain, cost, 10)
