"""The portable body of ``exaone::HybridAttention``, as a function of the model."""

from __future__ import annotations

import onnx_ir as ir

from ..hybrid_attention import has_qk_norm, hybrid_attention_nodes, portable_body


class CarryBody(ir.passes.InPlacePass):
    """Add the function that the attention nodes call, so that any opset-24 runtime can run them.

    1. A graph with ``exaone::HybridAttention`` nodes gets the function and its domain's opset.

    Left alone: every node; a graph without such nodes, or with the function already.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the function in place."""
        nodes = hybrid_attention_nodes(model)
        body = portable_body(qk_norm=any(map(has_qk_norm, nodes)))
        if body.identifier() in model.functions or not nodes:
            return ir.passes.PassResult(model, modified=False)
        model.functions[body.identifier()] = body
        model.graph.opset_imports[body.domain] = 1
        return ir.passes.PassResult(model, modified=True)
