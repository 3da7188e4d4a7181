"""Weights rounded within the best range: never worse than the whole range."""

from __future__ import annotations

import pytest
import torch

from exaone_export.calibration import weight_ranges
from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.weight_ranges import SHRINK, round_weight
from exaone_export.calibration.weights import QuantizedWeight

INT4 = FORMATS["int4"]


def errors(weight: torch.Tensor, found: QuantizedWeight, block: int) -> torch.Tensor:
    return (weight - found.dequantize()).square().reshape(len(weight), -1, block or weight.shape[1]).sum(-1)


@pytest.fixture
def weight(generator: torch.Generator) -> torch.Tensor:
    found = torch.randn(24, 128, generator=generator)
    found[3, 7], found[4, 9] = 9.0, -9.0
    return found


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("block", [0, 32])
@pytest.mark.parametrize("name", ["int4", "int8"])
def test_the_search_is_an_exhaustive_one_over_the_shares(
    name: str, block: int, asymmetric: bool, weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = errors(weight, round_weight(weight, FORMATS[name], block=block, asymmetric=asymmetric), block)
    each = []
    for share in SHRINK:
        monkeypatch.setattr(weight_ranges, "SHRINK", (share,))
        each.append(errors(weight, round_weight(weight, FORMATS[name], block=block, asymmetric=asymmetric), block))
    torch.testing.assert_close(found, torch.stack(each).amin(0), rtol=1e-4, atol=1e-9)
    if name == "int4":
        assert found.sum() < 0.98 * each[0].sum()


def test_importance_decides_whose_error_counts(weight: torch.Tensor) -> None:
    importance = torch.full((128,), 1e-4)
    importance[7] = 1.0
    weighted = round_weight(weight, INT4, importance=importance).dequantize()
    plain = round_weight(weight, INT4).dequantize()
    assert abs(weighted[3, 7] - 9.0) < 1e-5  # alone it decides that nothing is clipped
    wrong, wrong_plain = ((w - weight).square() @ importance for w in (weighted, plain))
    assert (wrong <= wrong_plain * 1.0001).all()
    assert wrong.sum() < 0.5 * wrong_plain.sum()


def test_a_zero_point_serves_weights_on_one_side_of_zero(generator: torch.Generator) -> None:
    weight = torch.rand(8, 64, generator=generator)
    weight[4:] *= -1
    found = round_weight(weight, INT4, block=32, asymmetric=True, search=False)
    assert found.zero_point is not None
    assert found.zero_point.dtype == torch.int8
    assert found.zero_point.shape == found.scale.shape
    assert found.zero_point.tolist() == [[-8, -8]] * 4 + [[7, 7]] * 4
    plain = round_weight(weight, INT4, block=32, search=False)
    assert errors(weight, found, 32).sum() < 0.4 * errors(weight, plain, 32).sum()
    step = found.scale.repeat_interleave(32, 1)
    assert ((found.dequantize() - weight).abs() <= 0.5001 * step).all()


def test_zero_is_represented_exactly(weight: torch.Tensor) -> None:
    weight = weight + 0.7
    weight[:, ::5] = 0
    found = round_weight(weight, INT4, block=32, asymmetric=True).dequantize()
    assert (found[:, ::5] == 0).all()


def test_a_signed_scale_puts_the_largest_magnitude_at_minus_eight(weight: torch.Tensor) -> None:
    found = round_weight(weight, INT4, signed_scale=True)
    extreme = weight.gather(1, weight.abs().argmax(1, keepdim=True)).squeeze(1)
    assert torch.equal(found.scale < 0, extreme > 0)
    values = found.values.gather(1, weight.abs().argmax(1, keepdim=True)).squeeze(1)
    assert (values < 0).all()
    assert values[[3, 4]].tolist() == [-8, -8]
    plain = round_weight(weight, INT4)
    assert (plain.scale > 0).all()
    assert errors(weight, found, 0).sum() < errors(weight, plain, 0).sum()


@pytest.mark.parametrize("options", [{}, {"asymmetric": True}, {"signed_scale": True}])
def test_rows_are_independent_of_each_other(
    options: dict[str, bool], weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = round_weight(weight, INT4, block=32, **options)
    monkeypatch.setattr(weight_ranges, "_CHUNK", 5 * 128)
    parts = round_weight(weight, INT4, block=32, **options)
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.scale, parts.scale)
    assert (whole.zero_point is None) == (parts.zero_point is None)
    assert whole.zero_point is None or torch.equal(whole.zero_point, parts.zero_point)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"asymmetric": True}, {"signed_scale": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_group_of_zeros_stays_zero(options: dict[str, bool], dtype: torch.dtype, weight: torch.Tensor) -> None:
    weight[2], weight[5, :32] = 0, 0
    found = round_weight(weight, INT4, block=32, scale_dtype=dtype, **options)
    assert (found.scale != 0).all()
    assert (found.dequantize()[weight == 0] == 0).all()
    assert torch.isfinite(found.dequantize()).all()


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_a_nan_is_not_lost(name: str, weight: torch.Tensor) -> None:
    weight[1, 5] = torch.nan
    found = round_weight(weight, FORMATS[name]).dequantize()
    assert found.isnan().any(1).nonzero().flatten().tolist() == [1]
