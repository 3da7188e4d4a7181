"""A product of 8-bit weights with inputs that are rounded as they come, as a function of ONNX Runtime's operators.

Every vector of the input has a scale of its own, so a token's result depends neither on its neighbours in the prompt
nor on the other rows of the batch, as it would with ``DynamicQuantizeMatMul``.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import script
from onnxscript.onnx_opset import opset24 as op
from onnxscript.values import Opset

from .hybrid_attention import DOMAIN, OPSET

NAME = "DynamicInt8MatMul"
_contrib = Opset("com.microsoft", 1)


@script(OPSET, default_opset=op)
def DynamicInt8MatMul(x, weight, scale):  # type: ignore[no-untyped-def]
    """``x @ (weight * scale)``.

    ``x`` is ``[..., in]`` float32, ``weight`` ``[in, out]`` int8 from -64 to 63, ``scale`` ``[out]`` float32.
    Processors without dot products of bytes add pairs of products in 16 bits: 2 * 255 * 64 fits there, and
    2 * 255 * 128 does not.
    """
    # Few nodes, because a token's products are so small that starting one shows. A vector of zeros is divided by zero:
    # its codes are anything, and its product with the largest value is zero all the same.
    largest = op.ReduceMax(op.Abs(x), op.Constant(value_ints=[-1]), keepdims=1)
    middle = op.Cast(op.Constant(value_int=128), to=2)
    step = op.Constant(value_float=1.0 / 127.0)
    rounded = op.QuantizeLinear(op.Div(x, largest), step, middle)
    return op.Mul(_contrib.MatMulIntegerToFloat(rounded, weight, step, scale, middle), largest)


def function() -> ir.Function:
    """The function that a model carries."""
    return ir.from_proto(DynamicInt8MatMul.to_function_proto())


def is_dynamic_int8(node: ir.Node) -> bool:
    """Whether ``node`` calls the function."""
    return node.domain == DOMAIN and node.op_type == NAME
