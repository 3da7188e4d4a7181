"""Rounding to a number format is ONNX's, value by value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exaone_export.calibration.number_formats import FORMATS
from tests.calibration.onnx_rounding import onnx_round_trip

LOWEST = {"int8": -128, "int4": -8, "float8_e4m3fn": -448}


def hard_values(name: str) -> torch.Tensor:
    """Every value of the format, every tie between two, their neighbours in float32, and what lies beyond."""
    if name == "float8_e4m3fn":
        values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        values = values[values.isfinite()].unique()
    else:
        values = torch.arange(float(LOWEST[name]), FORMATS[name].largest + 1)
    ties = (values[1:] + values[:-1]) / 2
    centre = torch.cat([values, ties])
    up, down = (torch.nextafter(centre, torch.full_like(centre, end)) for end in (torch.inf, -torch.inf))
    beyond = torch.tensor([1.02, 1.5, 10.0, 1e30]) * FORMATS[name].largest
    return torch.cat([centre, up, down, beyond, -beyond])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("scale", [1.0, 2.0**-9, 0.0137])
def test_rounding_is_that_of_onnx_runtime(name: str, scale: float) -> None:
    x = hard_values(name) * scale
    found = FORMATS[name].quantize(x / torch.tensor(scale)).float() * torch.tensor(scale)
    expected = onnx_round_trip(x.numpy()[None], np.array([scale], np.float32), name, axis=0)
    np.testing.assert_array_equal(found.numpy(), expected[0])


@pytest.mark.parametrize(
    ("name", "ratios", "expected"),
    [
        ("int8", [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5], [0, 2, 2, 0, -2, -2, 126]),
        ("int4", [0.5, 1.5, 2.5, -0.5, -1.5, 5.5, 6.5], [0, 2, 2, 0, -2, 6, 6]),
        # In E4M3 the steps are 1/8 of the power of two below, and 2**-9 under 2**-6.
        ("float8_e4m3fn", [17.0, 19.0, 1.0625, 1.1875, 2.0**-10, 3 * 2.0**-10], [16, 20, 1, 1.25, 0, 2.0**-8]),
    ],
)
def test_ties_go_to_even(name: str, ratios: list[float], expected: list[float]) -> None:
    assert FORMATS[name].quantize(torch.tensor(ratios)).float().tolist() == expected


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_out_of_range_saturates(name: str) -> None:
    largest = FORMATS[name].largest
    ratios = torch.tensor([largest, 1.5 * largest, 1e30, torch.inf, -largest, -1e30, -torch.inf])
    expected = [largest] * 4 + [-largest] + [LOWEST[name]] * 2
    assert FORMATS[name].quantize(ratios).float().tolist() == expected


@pytest.mark.parametrize("name", FORMATS)
def test_a_scale_maps_its_magnitude_to_the_largest_value(name: str, generator: torch.Generator) -> None:
    chosen = FORMATS[name]
    magnitude = torch.rand(1000, generator=generator) * 100
    scale = chosen.scale(magnitude)
    np.testing.assert_array_equal(scale.numpy(), magnitude.numpy() / np.float32(chosen.largest))
    assert (chosen.quantize(magnitude / scale).float() == chosen.largest).all()
    assert (chosen.quantize(-magnitude / scale).float() == -chosen.largest).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_is_divided_by_zero_where_everything_is_zero(name: str, dtype: torch.dtype) -> None:
    scale = FORMATS[name].scale(torch.tensor([0.0, 1e-45, 1e-40]), dtype)
    assert scale.dtype == dtype
    assert (scale > 0).all()
    if dtype != torch.float16:  # where processors flush subnormal numbers to zero
        assert (scale.float() >= torch.finfo(dtype).tiny).all()
    assert (FORMATS[name].quantize(torch.zeros(3) / scale.float()).float() == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_scale_hands_nan_and_infinity_on(dtype: torch.dtype) -> None:
    for chosen in FORMATS.values():
        scale = chosen.scale(torch.tensor([torch.nan, torch.inf]), dtype)
        assert scale.isnan().tolist() == [True, False]
        assert scale.isinf().tolist() == [False, True]


def test_float8_keeps_nan() -> None:
    assert FORMATS["float8_e4m3fn"].quantize(torch.tensor([torch.nan])).float().isnan().all()
