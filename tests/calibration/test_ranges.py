"""Ranges by percentile, entropy and squared error, each against a plain reading of where it comes from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from exaone_export.calibration import ranges
from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.ranges import METHODS, check_range, entropy, maximum, mean_squared_error, percentile
from exaone_export.calibration.statistics import InputStatistics

INT8, FP8 = FORMATS["int8"], FORMATS["float8_e4m3fn"]


def statistics_of(inputs: torch.Tensor) -> InputStatistics:
    statistics = InputStatistics(torch.zeros(inputs.shape[-1]))
    for part in inputs.split(100):
        statistics.add(part)
    return statistics


@pytest.fixture
def laplace(generator: torch.Generator) -> torch.Tensor:
    u = torch.rand(2000, 64, generator=generator) - 0.5
    return -u.sign() * torch.log1p(-2 * u.abs() * 0.999999)


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.99, 100.0])
def test_a_percentile_is_that_of_the_magnitudes_to_a_bin(percent: float, laplace: torch.Tensor) -> None:
    statistics = statistics_of(laplace)
    bin_width = statistics.histogram.limit / 2048
    expected = np.percentile(laplace.abs().numpy(), percent, method="inverted_cdf")
    found = percentile(statistics, percent)
    assert expected <= found <= expected + bin_width
    assert found <= maximum(statistics)


def error(inputs: torch.Tensor, limit: float, name: str) -> float:
    scale = FORMATS[name].scale(torch.tensor(limit))
    return (FORMATS[name].quantize(inputs / scale).float() * scale - inputs).square().mean().item()


@pytest.mark.parametrize("name", ["int8", "int4", "float8_e4m3fn"])
def test_no_other_range_has_a_smaller_squared_error(name: str, laplace: torch.Tensor) -> None:
    statistics = statistics_of(laplace)
    found = mean_squared_error(statistics, FORMATS[name])
    least = min(error(laplace, limit, name) for limit in np.linspace(0.05, 1, 60) * maximum(statistics))
    # Histogram centers stand for what lies around them; float8's steps near zero are finer than its bins.
    assert error(laplace, found, name) <= (1.1 if name == "float8_e4m3fn" else 1.01) * least


def published_entropy(counts: np.ndarray, levels: int, first: int, step: int) -> int:
    """The loop of Migacz's slides for evenly spaced levels; gives a range in bins."""
    best, least = 0, math.inf
    for i in range(first, len(counts) + 1, step):
        exact = counts[:i].copy()
        exact[-1] += counts[i:].sum()
        codes = np.rint((np.arange(i) + 0.5) * (levels / i)).clip(0, levels)
        rounded = np.zeros(i)
        for code in np.unique(codes):
            members = (codes == code) & (counts[:i] > 0)
            if members.any():
                rounded[members] = counts[:i][members].sum() / members.sum()
        exact, rounded = exact / exact.sum(), rounded / rounded.sum()
        held = exact > 0
        divergence = (exact[held] * np.log(exact[held] / rounded[held].clip(1e-12))).sum()
        if divergence < least:
            best, least = i, divergence
    return best


@pytest.mark.parametrize("outlier", [0.0, 60.0])
def test_entropy_is_the_loop_of_the_slides(
    outlier: float, laplace: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "_STEP", 96)
    if outlier:
        laplace = torch.cat((laplace, torch.full((1, 64), outlier)))
    statistics = statistics_of(laplace)
    histogram = statistics.histogram
    counts = histogram.counts.numpy().copy()
    counts[0] = counts[1]
    bins = published_entropy(counts, 127, 128, 96)
    assert entropy(statistics, INT8) == min(bins * histogram.limit / 2048, maximum(statistics))


def test_zeros_do_not_move_the_range_of_entropy(laplace: torch.Tensor) -> None:
    laplace = torch.cat((laplace, torch.full((1, 64), 20.0)))
    with_zeros = torch.cat((laplace, torch.zeros(40_000, 64)))
    assert entropy(statistics_of(with_zeros), INT8) == entropy(statistics_of(laplace), INT8)


def test_a_single_outlier_does_not_cost_int8_its_steps(laplace: torch.Tensor) -> None:
    without = maximum(statistics_of(laplace))
    statistics = statistics_of(torch.cat((laplace, torch.full((1, 64), 60.0).index_fill_(1, torch.arange(1, 64), 0.0))))
    assert maximum(statistics) == 60
    assert entropy(statistics, INT8) < 1.2 * without
    assert percentile(statistics) < without
    assert mean_squared_error(statistics, INT8) < 60


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number_format", [INT8, FP8], ids=["int8", "fp8"])
@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4])
def test_every_method_finds_a_range_that_passes_its_check(
    method: str, number_format: ranges.NumberFormat, size: float, laplace: torch.Tensor
) -> None:
    statistics = statistics_of(laplace[:200] * size)
    found = METHODS[method](statistics, number_format)
    assert 0.1 * maximum(statistics) < found <= maximum(statistics)
    check_range(found, statistics.channel_maximum, "it")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_never_hidden(method: str, bad: float, laplace: torch.Tensor) -> None:
    laplace[3, 3] = bad
    assert not math.isfinite(METHODS[method](statistics_of(laplace), INT8))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_has_no_range(method: str) -> None:
    assert METHODS[method](statistics_of(torch.zeros(3, 4)), INT8) == 0


def test_a_range_of_exactly_one_is_a_range_like_others() -> None:
    """A histogram's edges are multiples of a power of two, so 1 is one of the ranges that are tried."""
    statistics = statistics_of(torch.cat((torch.linspace(-1, 1, 64_000), torch.tensor([1.5])))[:, None])
    found = percentile(statistics)
    assert found == 1
    check_range(found, statistics.channel_maximum, "it")
