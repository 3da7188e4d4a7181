"""Nodes that ONNX Runtime's CUDA provider runs in fewer kernels: a decode step is some hundred short launches."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exaone_export.graphs.passes.group_query_attention import CONTRIB_DOMAIN


class FuseCudaKernels(ir.passes.InPlacePass):
    """Run in one kernel what the traced graph says in two.

    1. ``RMSNormalization(Cast(x, float32), weight)`` of a float16 ``x`` reads ``x`` itself: the kernel computes in
       float32 and writes the weight's type, so the result is the same. It has no such form for bfloat16.
    2. ``x * Sigmoid(x)`` becomes ``QuickGelu`` with ``alpha = 1``, which is SiLU (Elfwing et al., 2017).

    Left alone: a Cast that something else reads, too; norms of any other type; every other node.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        found = [fused for node in list(model.graph) for fused in (_read_half(node), _silu(node)) if fused]
        if found:
            model.graph.opset_imports[CONTRIB_DOMAIN] = 1
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(found))


def _read_half(node: ir.Node) -> bool:
    cast = node.inputs[0].producer() if node.op_type == "RMSNormalization" and node.inputs[0] is not None else None
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return False
    if cast.inputs[0].dtype != ir.DataType.FLOAT16 or len(cast.outputs[0].uses()) > 1:
        return False
    node.replace_input_with(0, cast.inputs[0])
    return True


def _silu(node: ir.Node) -> bool:
    if node.op_type != "Mul" or node.graph is None:
        return False
    x, gate = node.inputs
    made = gate.producer() if gate is not None else None
    if x is None or made is None or made.op_type != "Sigmoid" or made.inputs[0] is not x:
        return False
    tape = ir.tape.Tape()
    activated = tape.op("QuickGelu", [x], {"alpha": 1.0}, domain=CONTRIB_DOMAIN)
    activated.dtype, activated.shape = node.outputs[0].dtype, node.outputs[0].shape
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], tape.nodes, node.outputs, [activated])
    return True
