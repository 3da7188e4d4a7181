"""GPTQ against the paper's own recursion in float64, and what it must be better at."""

from __future__ import annotations

import pytest
import torch

from exaone_export.calibration import gptq as module
from exaone_export.calibration.gptq import gptq
from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CalibrationError

INT4 = FORMATS["int4"]
IN, OUT, BLOCK = 96, 40, 32
OPTIONS: list[dict[str, bool]] = [{}, {"signed_scale": True}]


@pytest.fixture
def inputs(generator: torch.Generator) -> torch.Tensor:
    mix = torch.randn(IN, IN, generator=generator) * torch.logspace(-1, 1, IN)
    return torch.randn(500, IN, generator=generator) @ mix / IN**0.5


@pytest.fixture
def weight(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(OUT, IN, generator=generator)


def moment(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T @ inputs / len(inputs)


def wrong(weight: torch.Tensor, found: QuantizedWeight, inputs: torch.Tensor) -> float:
    """Squared error of the product's outputs."""
    return (inputs @ (found.dequantize() - weight).T).square().sum().item()


def published(weight: torch.Tensor, second_moment: torch.Tensor, nearest: QuantizedWeight) -> torch.Tensor:
    """The values by equations 2 and 3 of the paper, one channel after the other, through the inverse's factor."""
    hessian, rest = second_moment.double().clone(), weight.double().clone()
    diagonal = hessian.diagonal()
    mean, order = diagonal.mean(), diagonal.argsort(descending=True, stable=True)
    diagonal[diagonal == 0] = mean
    diagonal += 0.01 * mean
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian[order][:, order]), upper=True)
    scale = nearest.scale.double().reshape(len(weight), -1).repeat_interleave(IN // nearest.scale[0].numel(), 1)
    rest, scale = rest[:, order], scale[:, order]
    values = torch.zeros_like(rest)
    for k in range(IN):
        values[:, k] = (rest[:, k] / scale[:, k]).round().clamp(-8, 7)
        error = (rest[:, k] - values[:, k] * scale[:, k]) / inverse[k, k]
        rest[:, k:] -= error[:, None] * inverse[k, k:]
    return torch.zeros_like(values).index_copy_(1, order, values)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("block", [0, BLOCK])
@pytest.mark.parametrize("blocking", [(512, 32), (24, 5), (1, 1)])
def test_it_is_the_papers_recursion(
    options: dict[str, bool],
    block: int,
    blocking: tuple[int, int],
    weight: torch.Tensor,
    inputs: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs[:, 11] = 0
    monkeypatch.setattr(module, "_LAZY", blocking[0])
    monkeypatch.setattr(module, "_INNER", blocking[1])
    found = gptq(weight, moment(inputs), INT4, block=block, **options)
    expected = published(weight, moment(inputs), found)
    same = (found.values == expected).double().mean().item()
    assert same > 0.999  # a tie may fall either way
    assert found.values.dtype == torch.int8


@pytest.mark.parametrize(
    ("name", "block", "options"),
    [(name, block, options) for name, block in (("int4", 0), ("int4", BLOCK), ("int8", 0)) for options in OPTIONS],
)
def test_outputs_are_closer_than_rounded_to_nearest(
    name: str, block: int, options: dict[str, bool], weight: torch.Tensor, inputs: torch.Tensor
) -> None:
    number_format = FORMATS[name]
    found = gptq(weight, moment(inputs), number_format, block=block, **options)
    nearest = round_weight(weight, number_format, block=block, **options)
    assert wrong(weight, found, inputs) < 0.6 * wrong(weight, nearest, inputs)
    assert found.scale.shape == nearest.scale.shape
    assert found.values.dtype == number_format.storage
    assert found.zero_point is None


def test_a_channel_that_was_always_zero_is_rounded_to_nearest(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    inputs[:, [3, 50]] = 0
    found = gptq(weight, moment(inputs), INT4)
    step = found.scale[:, None]
    dead = [3, 50]
    clipped = (weight[:, dead] / step).clamp(-8, 7) * step
    assert ((found.dequantize()[:, dead] - clipped).abs() <= 0.5001 * step).all()
    others = [i for i in range(IN) if i not in dead]
    changed = weight.clone()
    changed[:, dead] = 0.5 * weight[:, dead]
    again = gptq(changed, moment(inputs), INT4)
    same = (again.scale == found.scale).nonzero().flatten()
    assert len(same) > OUT // 2
    assert torch.equal(again.values[same][:, others], found.values[same][:, others])


def test_without_any_inputs_it_rounds_to_nearest(weight: torch.Tensor) -> None:
    found = gptq(weight, torch.zeros(IN, IN), INT4, block=BLOCK)
    step = found.scale.repeat_interleave(BLOCK, 1)
    assert torch.equal(found.values, (weight / step).round().clamp(-8, 7).to(torch.int8))


def test_inputs_of_one_direction_are_damped_until_they_can_be_factored(
    weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DAMPING", 1e-12)
    direction = torch.linspace(1, 2, IN)
    second_moment = 1e4 * torch.outer(direction, direction)
    found = gptq(weight, second_moment, INT4)
    exact, got = weight @ direction, found.dequantize() @ direction
    nearest = round_weight(weight, INT4).dequantize() @ direction
    assert (got - exact).square().sum() < 0.1 * (nearest - exact).square().sum()


@pytest.mark.parametrize(
    ("bad", "words"), [(torch.nan, "is not finite"), (torch.inf, "is not finite"), (-100.0, "is not that of any data")]
)
def test_a_second_moment_that_cannot_be_one_is_refused(
    bad: float, words: str, weight: torch.Tensor, inputs: torch.Tensor
) -> None:
    second_moment = moment(inputs)
    second_moment[4, 4] = bad
    with pytest.raises(CalibrationError, match=words):
        gptq(weight, second_moment, INT4)


def test_the_arguments_are_left_as_they_were(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    second_moment = moment(inputs)
    before, weight_before = second_moment.clone(), weight.clone()
    gptq(weight, second_moment, INT4)
    assert torch.equal(second_moment, before)
    assert torch.equal(weight, weight_before)
