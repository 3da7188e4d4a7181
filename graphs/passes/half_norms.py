"""Norms that read float16 without a cast: one kernel on ONNX Runtime's CUDA provider instead of two."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


class HalfNorms(ir.passes.InPlacePass):
    """Let a norm cast its input itself.

    1. ``RMSNormalization(Cast(x, float32), weight)`` of a float16 ``x`` reads ``x``: the kernel computes in float32 and
       writes the weight's type, so the result is the same. A decode step is some hundred short kernels, and these are
       one in ten of them (584 and 524 for the 1.2B).

    2. Nodes that nothing uses are removed, these casts among them.

    Left alone: a Cast that another node also reads; bfloat16, of which the provider has no such kernel; every other
    node. ONNX Runtime fuses ``x * Sigmoid(x)`` itself.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewire in place."""
        found = [norm for norm in model.graph if norm.op_type == "RMSNormalization" and _reads_half(norm)]
        for norm in found:
            cast = norm.inputs[0].producer()  # type: ignore[union-attr]
            norm.replace_input_with(0, cast.inputs[0])  # type: ignore[union-attr]
        removed = RemoveUnusedNodesPass()(model).modified
        return ir.passes.PassResult(model, modified=bool(found) or removed)


def _reads_half(norm: ir.Node) -> bool:
    cast = norm.inputs[0].producer() if norm.inputs[0] is not None else None
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return False
    return cast.inputs[0].dtype == ir.DataType.FLOAT16 and len(cast.outputs[0].uses()) == 1
