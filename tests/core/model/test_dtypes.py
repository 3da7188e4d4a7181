"""The table of number formats, against the libraries that it names."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from exaone_export.exporter.checkpoint.safetensors_file import FLOAT_TYPES, READ_TYPES
from exaone_export.model.dtypes import DTYPES, FLOATS, DType


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
def test_every_library_knows_the_format_by_that_name_and_size(dtype: DType) -> None:
    assert onnx.TensorProto.DataType.Name(dtype.onnx) == dtype.onnx_name
    assert ir.DataType(dtype.onnx).itemsize * 8 == dtype.bits
    if dtype.name != "int4":  # PyTorch has none
        assert getattr(torch, dtype.name).itemsize * 8 == dtype.bits
        assert np.dtype(getattr(ml_dtypes, dtype.name, dtype.name)).itemsize * 8 == dtype.bits


def test_names_of_other_formats() -> None:
    assert (*FLOAT_TYPES,) == ("F32", "BF16", "F16")
    assert READ_TYPES[3:] == ("I64", "I32", "I8", "F8_E4M3")
    assert {DTYPES[name].ort_name for name in FLOATS} == {"tensor(float)", "tensor(float16)", "tensor(bfloat16)"}
    assert [DTYPES[name].tensorrt for name in FLOATS] == ["FLOAT", "HALF", "BF16"]
