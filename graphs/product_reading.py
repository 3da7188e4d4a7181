"""Read the number formats of a product's weight and inputs from a node of any target and the nodes around it."""

from __future__ import annotations

import onnx_ir as ir

from .topology import converts, weight_of

__all__ = ["rounded_to", "stored_type"]


def stored_type(product: ir.Node) -> str:
    """The number format of a product's weight."""
    if product.op_type == "MatMulNBits":
        return {4: "int4", 8: "int8"}.get(product.attributes["bits"].as_int(), "unknown")
    dtype = weight_of(product).dtype
    return dtype.numpy().name if dtype is not None else "unknown"


def rounded_to(product: ir.Node) -> str | None:
    """The type that a product's inputs are rounded to: by itself, or between two nodes before it."""
    if product.op_type == "MatMulNBits":
        return "int8" if product.attributes["accuracy_level"].as_int() == 4 else None
    if product.op_type == "DynamicInt8MatMul":
        return "int8"
    value = product.inputs[0]
    while value is not None and (maker := value.producer()) is not None and converts(maker):
        if maker.op_type == "QuantizeLinear":
            return ir.DataType(maker.attributes["output_dtype"].as_int()).numpy().name
        value = maker.inputs[0]
    return None
