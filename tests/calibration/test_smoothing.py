"""Factors of a product's input channels: SmoothQuant's and AWQ's."""

from __future__ import annotations

import pytest
import torch

from exaone_export.calibration.awq import awq_scales
from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.smoothquant import share_in_groups, smoothing
from exaone_export.calibration.statistics import InputStatistics
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.errors import CalibrationError

INT4 = FORMATS["int4"]


def test_smoothing_is_the_formula_of_the_paper() -> None:
    maximum, weight = torch.tensor([4.0, 9.0]), torch.tensor([[1.0, -16.0], [-2.0, 3.0]])
    torch.testing.assert_close(smoothing(maximum, weight), torch.tensor([(4 / 2) ** 0.5, (9 / 16) ** 0.5]))
    torch.testing.assert_close(smoothing(maximum, weight, 1.0), maximum)
    torch.testing.assert_close(smoothing(maximum, weight, 0.0), torch.tensor([1 / 2, 1 / 16]))


def test_half_an_alpha_makes_inputs_and_weight_alike(generator: torch.Generator) -> None:
    x = torch.randn(50, 32, generator=generator) * torch.logspace(-2, 2, 32)
    weight = torch.randn(8, 32, generator=generator)
    factor = smoothing(x.abs().amax(0), weight)
    torch.testing.assert_close((x / factor).abs().amax(0), (weight * factor).abs().amax(0))


def test_channels_without_inputs_or_weights_get_the_others_median() -> None:
    weight = torch.tensor([[1.0, 0.0, 2.0, 1e-38]])
    assert smoothing(torch.tensor([0.0, 3.0, 2.0, 1e38]), weight, 0.0).tolist()[:3] == [0.5, 0.5, 0.5]
    assert smoothing(torch.zeros(4), weight).tolist() == [1, 1, 1, 1]
    for alpha in (0.0, 0.5, 1.0):
        found = smoothing(torch.tensor([0.0, 3.0, 2.0, 3e38]), weight, alpha)
        assert torch.isfinite(found).all()
        assert (found > 0).all()


def test_a_channel_without_inputs_takes_no_steps_from_the_others(generator: torch.Generator) -> None:
    """Of quiet inputs; a factor of one beside theirs would make its weights a thousand times as large."""
    x, weight = 1e-3 * torch.randn(50, 32, generator=generator), torch.randn(8, 32, generator=generator)
    x[:, 7] = 0

    def wrong(weight: torch.Tensor) -> float:
        factor = smoothing(x.abs().amax(0), weight, 1.0)
        rounded = round_weight(weight * factor, FORMATS["int8"], search=False).dequantize() / factor
        return (x @ (rounded - weight).T).square().sum().item()

    without = weight.clone()
    without[:, 7] = 0
    assert wrong(weight) < 2 * wrong(without)


@pytest.mark.parametrize(("bad", "alpha"), [(torch.nan, 0.5), (torch.inf, 0.5), (1.0, 1.5), (1.0, -0.1)])
def test_what_cannot_be_smoothed_is_refused(bad: float, alpha: float) -> None:
    with pytest.raises(CalibrationError):
        smoothing(torch.tensor([bad, 1.0]), torch.ones(2, 2), alpha)


def test_value_heads_take_the_largest_factor_of_the_heads_they_serve(generator: torch.Generator) -> None:
    heads, kv_heads, size = 6, 2, 4
    factor = torch.rand(heads * size, generator=generator) + 0.5
    shared, by_head = share_in_groups(factor, heads, kv_heads), factor.reshape(heads, size)
    assert torch.equal(shared[:size], by_head[:3].amax(0))
    assert torch.equal(shared[size:], by_head[3:].amax(0))


def statistics_of(inputs: torch.Tensor, keep: int = 64) -> InputStatistics:
    statistics = InputStatistics(torch.zeros(inputs.shape[-1]), keep=keep)
    statistics.add(inputs)
    return statistics


@pytest.fixture
def loud(generator: torch.Generator) -> torch.Tensor:
    inputs = torch.randn(300, 64, generator=generator)
    inputs[:, [5, 40]] *= 50
    inputs[:, 13] = 0
    return inputs


@pytest.mark.parametrize("block", [0, 32])
def test_awq_keeps_the_channels_that_are_loud(block: int, loud: torch.Tensor, generator: torch.Generator) -> None:
    weight = torch.randn(48, 64, generator=generator)
    factor = awq_scales(weight, statistics_of(loud), INT4, block=block)
    assert factor.shape == (64,)
    assert torch.isfinite(factor).all()
    assert factor[[5, 40]].min() > 1.5 * factor[[i for i in range(64) if i not in (5, 40)]].max()

    def wrong(factor: torch.Tensor) -> float:
        rounded = round_weight(weight * factor, INT4, block=block).dequantize() / factor
        return (loud @ (rounded - weight).T).square().sum().item()

    assert wrong(factor) < 0.7 * wrong(torch.ones(64))


def test_awq_leaves_alone_what_it_cannot_better(generator: torch.Generator) -> None:
    weight = torch.randint(-7, 8, (16, 64), generator=generator).float()
    weight[:, 0] = 7
    inputs = torch.randn(100, 64, generator=generator) * torch.linspace(1, 3, 64)
    assert torch.equal(awq_scales(weight, statistics_of(inputs), INT4), torch.ones(64))


def test_awq_wants_finite_inputs_and_a_sample(loud: torch.Tensor) -> None:
    weight = torch.ones(4, 64)
    with pytest.raises(CalibrationError, match="calibrate with a sample"):
        awq_scales(weight, statistics_of(loud, keep=0), INT4)
    loud[7, 7] = torch.nan
    with pytest.raises(CalibrationError, match="not finite"):
        awq_scales(weight, statistics_of(loud), INT4)
