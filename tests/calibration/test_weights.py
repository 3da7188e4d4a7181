"""Weights rounded to nearest: the groups, their scales, and what ONNX Runtime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from exaone_export.calibration.number_formats import FORMATS, NumberFormat
from exaone_export.calibration.weight_ranges import round_weight
from tests.calibration.onnx_rounding import onnx_round_trip

LARGEST = {"int8": 127, "int4": 7}


def rounded(weight: torch.Tensor, number_format: NumberFormat, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and scales, each group within its whole range."""
    found = round_weight(weight, number_format, search=False, **options)
    assert found.zero_point is None
    return found.values, found.scale


def dequantized(values: torch.Tensor, scale: torch.Tensor, block: int = 0) -> np.ndarray:
    return (values.float() * (scale.repeat_interleave(block, 1) if block else scale[:, None])).numpy()


@pytest.mark.parametrize("name", FORMATS)
def test_a_scale_an_output_channel_is_onnx_along_axis_0(name: str, generator: torch.Generator) -> None:
    weight = torch.randn(24, 64, generator=generator) * torch.logspace(-4, 2, 24)[:, None]
    values, scale = rounded(weight, FORMATS[name])
    assert values.shape == weight.shape
    assert scale.shape == (24,)
    expected = onnx_round_trip(weight.numpy(), scale.numpy(), name, axis=0)
    np.testing.assert_array_equal(dequantized(values, scale), expected)


@pytest.mark.parametrize("name", ["int4", "int8"])
@pytest.mark.parametrize("block", [16, 32, 64])
def test_blocks_along_the_input_are_onnx_with_a_block_size(name: str, block: int, generator: torch.Generator) -> None:
    weight = torch.randn(12, 64, generator=generator) * torch.logspace(-3, 1, 64)
    values, scale = rounded(weight, FORMATS[name], block=block)
    assert scale.shape == (12, 64 // block)
    expected = onnx_round_trip(weight.numpy(), scale.numpy(), name, axis=1, block=block)
    np.testing.assert_array_equal(dequantized(values, scale, block), expected)


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("block", [0, 16])
def test_the_formula_in_numpy(name: str, block: int, generator: torch.Generator) -> None:
    weight = torch.randn(10, 48, generator=generator)
    groups = weight.numpy().reshape(10, -1, block or 48)
    scale = np.abs(groups).max(-1) / np.float32(LARGEST[name])
    expected = np.rint(groups / scale[..., None]).clip(-LARGEST[name], LARGEST[name]).reshape(10, 48)
    values, found = rounded(weight, FORMATS[name], block=block)
    assert values.dtype == torch.int8
    np.testing.assert_array_equal(found.numpy(), scale if block else scale[:, 0])
    np.testing.assert_array_equal(values.numpy(), expected)


@pytest.mark.parametrize("block", [0, 16])
def test_no_value_is_more_than_half_a_step_away(block: int, generator: torch.Generator) -> None:
    weight = torch.randn(10, 48, generator=generator)
    for name in LARGEST:
        values, scale = rounded(weight, FORMATS[name], block=block)
        step = scale.repeat_interleave(block, 1) if block else scale[:, None]
        assert (abs(values * step - weight) <= step * 0.5001).all()


def test_a_scale_is_rounded_before_the_values_are_divided_by_it() -> None:
    """Dividing by the exact scale and storing the rounded one makes every value of a channel wrong alike."""
    # The exact scale is not quite half a step of float16 above 1, so it becomes 1.
    largest = np.float32(127 * (1 + 0.999 * 2.0**-11))
    weight = torch.tensor([[largest.item(), 100.53, -100.53]])
    values, scale = rounded(weight, FORMATS["int8"], scale_dtype=torch.float16)
    assert scale.dtype == torch.float16
    assert scale.item() == 1
    assert values.tolist() == [[127, 101, -101]]
    assert rounded(weight, FORMATS["int8"])[0].tolist() == [[127, 100, -100]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FORMATS)
def test_rounded_scales_give_what_onnx_runtime_gives_with_them(
    name: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    weight = torch.randn(16, 64, generator=generator)
    values, scale = rounded(weight, FORMATS[name], scale_dtype=dtype)
    expected = onnx_round_trip(weight.numpy(), scale.float().numpy(), name, axis=0)
    np.testing.assert_array_equal(dequantized(values, scale.float()), expected)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("block", [0, 16])
def test_a_channel_of_zeros_stays_zero_and_finite(
    name: str, dtype: torch.dtype, block: int, generator: torch.Generator
) -> None:
    weight = torch.randn(4, 32, generator=generator)
    weight[2] = 0
    weight[3, :16] = 0
    values, scale = rounded(weight, FORMATS[name], block=block, scale_dtype=dtype)
    assert (scale > 0).all()
    found = dequantized(values, scale.float(), block)
    assert (found[2] == 0).all()
    assert (found[3, :16] == 0).all()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_nan_makes_its_whole_channel_nan_and_no_other(name: str, generator: torch.Generator) -> None:
    weight = torch.randn(3, 16, generator=generator)
    weight[1, 5] = torch.nan
    found = dequantized(*rounded(weight, FORMATS[name]))
    assert np.isnan(found).all(1).tolist() == [False, True, False]
    assert np.isnan(found).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_is_divided_in_float32(dtype: torch.dtype, generator: torch.Generator) -> None:
    weight = torch.randn(8, 32, generator=generator).to(dtype)
    for number_format in FORMATS.values():
        for got, expected in zip(rounded(weight, number_format), rounded(weight.float(), number_format), strict=True):
            assert torch.equal(got.float(), expected.float())


@pytest.mark.parametrize("block", [0, 16])
def test_rows_may_be_quantized_some_at_a_time(block: int, generator: torch.Generator) -> None:
    weight = torch.randn(10, 32, generator=generator)
    values, scale = rounded(weight, FORMATS["int8"], block=block)
    parts = [rounded(part, FORMATS["int8"], block=block) for part in weight.split(3)]
    assert torch.equal(torch.cat([part[0] for part in parts]), values)
    assert torch.equal(torch.cat([part[1] for part in parts]), scale)
