"""One copy of a vocabulary matrix that is both the embedding and the head."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule


class TiedHead(ir.passes.InPlacePass):
    """Multiply by the embedding as it is stored, ``[vocab_size, hidden_size]``.

    1. ``MatMul(x, Transpose(W))`` with ``W`` an initializer becomes ``Reshape, Gemm(transB=1), Reshape``. A runtime
       folds the ``Transpose`` when it loads the graph, and would hold the largest matrix of the model twice.

    Left alone: a product with an initializer as it is stored; a ``Transpose`` of anything that is computed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rule in place."""
        return ir.passes.PassResult(model, modified=bool(_RULE.apply_to_model(model)))


def _transposed_product(op, x, weight):  # type: ignore[no-untyped-def]
    return op.MatMul(x, op.Transpose(weight, perm=[1, 0]))


def _is_initializer(context, weight: ir.Value, **_) -> bool:  # type: ignore[no-untyped-def]
    return weight.is_initializer()


def _gemm(op, x: ir.Value, weight: ir.Value):  # type: ignore[no-untyped-def]
    assert weight.shape is not None
    vocab_size, hidden_size = weight.shape
    rows = op.Reshape(x, op.Constant(value_ints=[-1, hidden_size]))
    logits = op.Gemm(rows, weight, transB=1)
    leading = op.Shape(x, start=0, end=2)
    # A step without logits has an empty axis, which Reshape would otherwise copy from its input.
    return op.Reshape(logits, op.Concat(leading, op.Constant(value_ints=[vocab_size]), axis=0), allowzero=1)


_RULE = RewriteRule(_transposed_product, _gemm, _is_initializer)
