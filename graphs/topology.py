"""Walking a graph: from a value to what made it and what uses it."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

# What moves, casts or packs a tensor and leaves its meaning alone.
TRANSPARENT = frozenset({"Cast", "Reshape", "Transpose", "Identity", "Split", "Squeeze", "Unsqueeze", "Slice"})
NORMS = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"})
PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits"})


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that made ``value``, seen through nodes that only move it."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in TRANSPARENT:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def only_user(value: ir.Value, wanted: Callable[[ir.Node], bool]) -> ir.Node | None:
    """The one user of ``value`` that is ``wanted``, seen through nodes that only move it; none or two give None."""
    found, pending = [], list(value.consumers())
    while pending:
        node = pending.pop()
        if wanted(node):
            found.append(node)
        elif node.op_type in TRANSPARENT:
            pending.extend(user for output in node.outputs for user in output.consumers())
    return found[0] if len(found) == 1 else None


def is_norm(node: ir.Node) -> bool:
    """Whether ``node`` is an RMSNorm."""
    return node.op_type in NORMS


def is_product(node: ir.Node) -> bool:
    """Whether ``node`` multiplies by a weight."""
    return node.op_type in PRODUCTS


def weight_of(node: ir.Node) -> ir.Value:
    """The weight of a product or a norm: its second input."""
    weight = node.inputs[1]
    assert weight is not None
    return weight
