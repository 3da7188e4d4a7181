"""The weights that quantized graphs of the families are judged with are those that a precision holds."""

from __future__ import annotations

import pytest
import torch

from benchmarks.families.models import hold
from exaone_export.calibration.number_formats import FORMATS, REDUCED_INT8, NumberFormat
from exaone_export.calibration.weight_ranges import round_weight

OPTIONS: list[dict[str, bool]] = [{}, {"search": False}, {"signed_scale": True}, {"asymmetric": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("number_format", [FORMATS["int8"], FORMATS["int4"], REDUCED_INT8], ids=lambda it: it.largest)
@pytest.mark.parametrize(("group", "block"), [(16, 16), (64, 16), (192, 0)])
def test_a_format_holds_them(group: int, block: int, number_format: NumberFormat, options: dict[str, bool]) -> None:
    weight = torch.randn(2, 40, 192, generator=torch.Generator().manual_seed(group))
    hold(weight, group)
    rows = weight.flatten(0, 1)
    found = round_weight(rows, number_format, block=block, **options).dequantize()
    torch.testing.assert_close(found, rows, rtol=1e-6, atol=0)
    assert 0.4 < (rows != 0).float().mean() < 0.6 and (rows > 0).any() and (rows < 0).any()
