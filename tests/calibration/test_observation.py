"""Everything that one pass over a product's inputs leaves behind, however the inputs came in batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from exaone_export.calibration import statistics
from exaone_export.calibration.histogram import BINS, Histogram
from exaone_export.calibration.statistics import InputStatistics, observe_inputs

SIZE = 12


@pytest.fixture
def inputs(generator: torch.Generator) -> torch.Tensor:
    """Vectors that grow, so that the histogram's range has to."""
    return torch.randn(101, SIZE, generator=generator) * torch.logspace(-2, 3, 101)[:, None]


def observed(inputs: torch.Tensor, batch: int, keep: int = 0) -> InputStatistics:
    found = InputStatistics(torch.zeros(SIZE), second_moment=True, keep=keep)
    for part in inputs.split(batch):
        found.add(part)
    return found


@pytest.mark.parametrize("rows", [512, 5])
@pytest.mark.parametrize("batch", [1, 7, 101])
def test_the_means_are_those_of_all_vectors(
    batch: int, rows: int, inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_MOMENT_ROWS", rows)
    found = observed(inputs, batch)
    assert found.vectors == 101
    torch.testing.assert_close(found.channel_mean, inputs.abs().mean(0))
    torch.testing.assert_close(found.second_moment, inputs.T @ inputs / 101, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("batch", [1, 7, 101])
def test_the_histogram_is_that_of_a_range_known_before(batch: int, inputs: torch.Tensor) -> None:
    histogram = observed(inputs, batch).histogram
    largest = inputs.abs().max().item()
    assert largest <= histogram.limit < 2 * largest
    assert torch.equal(histogram.counts, torch.histc(inputs.abs(), BINS, 0.0, histogram.limit).double())
    assert histogram.counts.sum() == inputs.numel()
    assert histogram.edges[-1] == histogram.limit
    assert torch.all(histogram.centers < histogram.edges)


def test_zeros_before_anything_else_stay_in_the_first_bin() -> None:
    histogram = Histogram()
    histogram.add(torch.zeros(5), 0.0)
    histogram.add(torch.tensor([0.0, 3.0]), 3.0)
    assert histogram.limit == 4
    assert histogram.counts[0] == 6
    assert histogram.counts[int(3 / 4 * BINS)] == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_every_magnitude_is_counted_by_any_number_of_threads(threads: int) -> None:
    """float32 holds no more than 2^24 counts one by one, and threads would each reach that for themselves."""
    before, count = torch.get_num_threads(), 2 * (1 << 24) + 6
    histogram = Histogram()
    try:
        torch.set_num_threads(threads)
        histogram.add(torch.tensor(0.75).expand(count), 0.75)
    finally:
        torch.set_num_threads(before)
    assert histogram.counts[int(0.75 * BINS)] == count
    assert histogram.counts.sum() == count


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_counted_and_never_lost(bad: float, inputs: torch.Tensor) -> None:
    inputs[50, 3] = bad
    found = observed(inputs, 7)
    assert torch.isfinite(torch.tensor(found.histogram.limit))
    assert torch.isfinite(found.histogram.counts).all()
    assert torch.isfinite(found.channel_maximum).tolist() == [i != 3 for i in range(SIZE)]
    assert not torch.isfinite(found.channel_mean[3])
    assert found.second_moment is not None
    assert not torch.isfinite(found.second_moment[3, 3])


@pytest.mark.parametrize("batch", [1, 7, 40, 101])
@pytest.mark.parametrize(("keep", "stride"), [(1, 128), (8, 16), (30, 4), (51, 2), (101, 1), (500, 1)])
def test_the_sample_is_evenly_strided(keep: int, stride: int, batch: int, inputs: torch.Tensor) -> None:
    assert torch.equal(observed(inputs, batch, keep).sample, inputs[::stride])


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIZE, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


def test_only_what_was_asked_for_is_kept(inputs: torch.Tensor) -> None:
    first, second = Product(), Product()
    with observe_inputs({"first": first, "second": second}, second_moment=["second"]) as seen, torch.inference_mode():
        first(inputs)
        second(inputs)
    assert seen["first"].second_moment is None
    assert seen["second"].second_moment is not None
    assert seen["first"].sample.shape == (0, SIZE)
    seen["second"].add(inputs)  # and they may be added to outside inference mode
    assert seen["second"].vectors == 202


def test_slices_are_kept_apart(inputs: torch.Tensor) -> None:
    product = Product()
    with observe_inputs({"p": product}) as seen:
        product(inputs[:10])
        for label, part in (("ko", inputs[10:20]), ("tool call", inputs[20:30]), ("ko", inputs[5:15])):
            seen.slice = label
            product(part)
    expected = {"ko": inputs[5:20].abs().max().item(), "tool call": inputs[20:30].abs().max().item()}
    assert seen["p"].slice_maximum == expected
    assert seen["p"].vectors == 40


def test_a_slice_with_a_nan_says_so(inputs: torch.Tensor) -> None:
    statistics = InputStatistics(torch.zeros(SIZE))
    statistics.add(torch.full((1, SIZE), torch.nan), "ko")
    statistics.add(inputs, "ko")
    assert statistics.slice_maximum["ko"] != statistics.slice_maximum["ko"]


def test_no_vectors_change_nothing(inputs: torch.Tensor) -> None:
    found = observed(inputs, 101, keep=8)
    found.add(torch.empty(0, SIZE))
    assert found.vectors == 101
    torch.testing.assert_close(found.channel_mean, inputs.abs().mean(0))
