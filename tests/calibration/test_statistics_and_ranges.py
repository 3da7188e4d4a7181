"""What goes into a product is seen whole, and a range that nothing can have measured is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from exaone_export.calibration.ranges import check_range, maximum
from exaone_export.calibration.statistics import InputStatistics, observe_inputs
from exaone_export.errors import CalibrationError


class Product(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, columns))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def statistics_of(*inputs: torch.Tensor) -> InputStatistics:
    statistics = InputStatistics(torch.zeros(inputs[0].shape[-1]))
    for each in inputs:
        statistics.add(each)
    return statistics


def test_the_largest_magnitude_of_every_channel_over_all_calls(generator: torch.Generator) -> None:
    calls = [torch.randn(2, 5, 6, generator=generator), torch.randn(3, 6, generator=generator)]
    product = Product(6, 4)
    with observe_inputs({"p": product}) as seen:
        for inputs in calls:
            assert torch.equal(product(inputs), inputs @ product.weight)
    everything = torch.cat([inputs.reshape(-1, 6) for inputs in calls]).abs()
    assert torch.equal(seen["p"].channel_maximum, everything.amax(0))
    assert seen["p"].vectors == 13
    assert maximum(seen["p"]) == everything.max().item()


def test_the_lowest_value_counts_as_much_as_the_highest() -> None:
    assert maximum(statistics_of(torch.tensor([[0.5, -3.0], [1.0, 2.0]]))) == 3


def test_nothing_is_observed_once_the_context_is_left() -> None:
    product = Product(3, 2)
    with pytest.raises(KeyError), observe_inputs({"p": product}) as seen:
        product(torch.ones(1, 3))
        raise KeyError
    product(torch.full((1, 3), 9.0))
    assert seen["p"].vectors == 1
    assert not product._forward_pre_hooks


def test_inputs_in_half_precision_are_kept_in_float32() -> None:
    found = statistics_of(torch.tensor([[1.5, -60000.0]], dtype=torch.float16)).channel_maximum
    assert found.dtype == torch.float32
    assert found.tolist() == [1.5, 60000.0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_value_that_is_not_finite_is_never_lost(bad: float, at: int) -> None:
    inputs = [torch.ones(2, 3) * (i + 2) for i in range(3)]
    inputs[at][1, 2] = bad
    statistics = statistics_of(*inputs)
    assert torch.isfinite(statistics.channel_maximum).tolist() == [True, True, False]
    with pytest.raises(CalibrationError, match=r"^the range of it is not finite"):
        check_range(maximum(statistics), statistics.channel_maximum, "it")


@pytest.mark.parametrize(
    ("found", "channels", "words"),
    [
        (0.0, [0.0, 0.0], "is 0, and it must be above 0; calibrate with data that reaches it"),
        (-0.0, [0.0, 0.0], "must be above 0"),
        (-2.0, [2.0, 1.0], "is -2, and it must be above 0"),
        (float("nan"), [2.0, 1.0], "is not finite (nan)"),
        (float("inf"), [2.0, 1.0], "is not finite (inf)"),
        (2.0, [2.0, float("nan")], "is not finite"),
        (2.0, [2.0, float("inf")], "is not finite"),
        (3.0, [2.0, 1.0], "is 3, and its channels reach from 1 to 2"),
        (2.0, [2.0, -1.0], "is 2, and its channels reach from -1 to 2"),
    ],
)
def test_a_range_that_nothing_can_have_measured_is_refused(found: float, channels: list[float], words: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        check_range(found, torch.tensor(channels), "layer 3's down projection")
    assert str(caught.value).startswith("the range of layer 3's down projection ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("found", "channels"),
    [
        (2.0, [2.0, 1.0]),
        (1.5, [2.0, 1.0]),
        (1.0, [2.0, 0.5]),
        (1.0, [1.0, 1.0]),
        (0.5, [1.0, 1.0]),
        (1e-30, [1e-30, 0.0]),
        (3e38, [3e38, 0.0]),
    ],
)
def test_a_range_within_what_was_seen_passes(found: float, channels: list[Any]) -> None:
    check_range(found, torch.tensor(channels), "it")
