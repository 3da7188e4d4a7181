"""Constants that passes add to a graph, and the domain of ONNX Runtime's own operators."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["CONTRIB_DOMAIN", "ints", "scalar"]

CONTRIB_DOMAIN = "com.microsoft"


def ints(tape: ir.tape.Tape, *values: int) -> ir.Value:
    """``[n]`` int64."""
    return tape.op("Constant", [], {"value_ints": list(values)})


def scalar(tape: ir.tape.Tape, value: float) -> ir.Value:
    """A scalar, float32."""
    return tape.op("Constant", [], {"value_float": value})
