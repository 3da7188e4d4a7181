"""Number formats: what every format and library calls them, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DTYPES", "FLOATS", "DType"]


@dataclass(frozen=True)
class DType:
    """One number format.

    Attributes:
        name: As PyTorch, NumPy's extensions, recipes and manifests call it.
        bits: Of one number.
        onnx: The ONNX specification's number of it (``TensorProto.DataType``).
        onnx_name: The ONNX specification's name of it.
        safetensors: As the safetensors format calls it; None where it has no such type.
        tensorrt: As TensorRT's ``DataType`` calls it; None where nothing here is bound to TensorRT in it.
    """

    name: str
    bits: int
    onnx: int
    onnx_name: str
    safetensors: str | None = None
    tensorrt: str | None = None

    @property
    def ort_name(self) -> str:
        """The type of a graph's input or output of it, as ONNX Runtime names it."""
        return f"tensor({self.onnx_name.lower()})"


DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("float32", 32, 1, "FLOAT", "F32", "FLOAT"),
        DType("bfloat16", 16, 16, "BFLOAT16", "BF16", "BF16"),
        DType("float16", 16, 10, "FLOAT16", "F16", "HALF"),
        DType("int64", 64, 7, "INT64", "I64"),
        DType("int32", 32, 6, "INT32", "I32"),
        DType("int8", 8, 3, "INT8", "I8"),
        DType("float8_e4m3fn", 8, 17, "FLOAT8E4M3FN", "F8_E4M3"),
        DType("int4", 4, 22, "INT4"),
        DType("float64", 64, 11, "DOUBLE", "F64"),
        DType("int16", 16, 5, "INT16", "I16"),
        DType("uint8", 8, 2, "UINT8", "U8"),
        DType("uint16", 16, 4, "UINT16", "U16"),
        DType("uint32", 32, 12, "UINT32", "U32"),
        DType("uint64", 64, 13, "UINT64", "U64"),
        DType("bool", 8, 9, "BOOL", "BOOL"),
        DType("float8_e5m2", 8, 19, "FLOAT8E5M2", "F8_E5M2"),
    )
}
"""Number formats by name."""

FLOATS = ("float32", "float16", "bfloat16")
"""What models are computed in."""
