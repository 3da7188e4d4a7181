"""Fold constants and remove what nothing uses, with onnxscript's and onnx_ir's own passes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir


class Tidy(ir.passes.InPlacePass):
    """Clean up a traced graph, which has no weights yet.

    1. Constant subgraphs (shapes, clamps, slice bounds) become constants.
    2. ``SplitToSequence`` with constant sizes becomes ``Split``.
    3. Stack traces and other metadata of the tracer are removed: they name the machine, and the same graph must have
       the same bytes.
    4. Common subexpressions are merged; unused nodes, functions and opsets are removed.

    Left alone: every node that reads an initializer, because folding would read a weight; functions, which are not
    inlined. onnxscript's whole optimizer would also compare the weights with each other.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the passes in place."""
        folded = fold_constants_ir(model, onnx_shape_inference=False, should_fold=_reads_no_weight)
        cleaned = ir.passes.Sequential(
            common.CommonSubexpressionEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),
            common.RemoveUnusedOpsetsPass(),
            common.ClearMetadataAndDocStringPass(),
        )(model)
        return ir.passes.PassResult(model, modified=folded.modified or cleaned.modified)


def _reads_no_weight(node: ir.Node) -> bool | None:
    return False if any(value is not None and value.is_initializer() for value in node.inputs) else None
