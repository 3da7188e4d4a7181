"""The portable body of ``exaone::HybridAttention``, in place of the nodes that call it."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass
from onnxscript.optimizer import fold_constants_ir

from .tidy import Tidy


class InlineBody(ir.passes.InPlacePass):
    """Replace calls of the model's functions by their bodies, for runtimes that do not expand functions.

    1. Every node that calls a function of the model becomes the function's nodes; the functions are removed.
    2. What follows from attributes and the caches' shapes becomes constant, and what the bodies share is merged.

    Left alone: a graph that carries no function. No weight is read: the graph has none yet.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Inline in place."""
        if not model.functions:
            return ir.passes.PassResult(model, modified=False)
        weights = frozenset(model.graph.initializers)

        def may_fold(node: ir.Node) -> bool | None:
            reads_weight = any(value is not None and value.name in weights for value in node.inputs)
            return False if reads_weight or node.op_type == "Range" else None  # as long as the cache

        InlinePass()(model)
        # Before Tidy, which takes every initializer for a weight, and so folds nothing of what was folded.
        fold_constants_ir(model, onnx_shape_inference=False, should_fold=may_fold)
        _merge_constants(model.graph, weights)
        Tidy()(model)
        return ir.passes.PassResult(model, modified=True)


def _merge_constants(graph: ir.Graph, weights: frozenset[str]) -> None:
    """Let layers share constants, and so what is computed of them: a rotary table is chosen once, not in each layer."""
    first: dict[object, ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        if name not in weights and (tensor := value.const_value) is not None:
            same = first.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
            if same is not value:
                value.replace_all_uses_with(same)
                del graph.initializers[name]
