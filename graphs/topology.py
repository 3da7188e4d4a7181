"""Walking a graph: from a value to the node that computes it and the nodes that use it."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

# Operators that change a tensor's type but not its meaning.
CONVERSIONS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})
# Operators that also move or pack a tensor.
TRANSPARENT = CONVERSIONS | {"Reshape", "Transpose", "Identity", "Split", "Squeeze", "Unsqueeze", "Slice"}
NORMS = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"})
PRODUCTS = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "DynamicInt8MatMul"})


def converts(node: ir.Node) -> bool:
    """Whether ``node`` changes a tensor's type, or scales its channels by constants (smoothing)."""
    scales = node.op_type == "Mul" and node.inputs[1] is not None and node.inputs[1].is_initializer()
    return scales or node.op_type in CONVERSIONS


def moves(node: ir.Node) -> bool:
    """Whether ``node`` keeps a tensor's meaning: it converts, moves or packs it."""
    return converts(node) or node.op_type in TRANSPARENT


def producer(value: ir.Value | None) -> ir.Node | None:
    """The node that computes ``value``, skipping nodes that only move it."""
    node = value.producer() if value is not None else None
    while node is not None and moves(node):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def only_user(value: ir.Value, wanted: Callable[[ir.Node], bool]) -> ir.Node | None:
    """The only user of ``value`` that is ``wanted``, skipping nodes that only move it; None for none or several."""
    found, pending = [], list(value.consumers())
    while pending:
        node = pending.pop()
        if wanted(node):
            found.append(node)
        elif moves(node):
            pending.extend(user for output in node.outputs for user in output.consumers())
    return found[0] if len(found) == 1 else None


def origin(value: ir.Value | None) -> ir.Value | None:
    """``value`` before it was cast or quantized."""
    while value is not None and (maker := value.producer()) is not None and converts(maker):
        value = maker.inputs[0]
    return value


def is_norm(node: ir.Node) -> bool:
    """Whether ``node`` is an RMSNorm."""
    return node.op_type in NORMS


def is_product(node: ir.Node) -> bool:
    """Whether ``node`` multiplies by a weight."""
    return node.op_type in PRODUCTS


def weight_of(node: ir.Node) -> ir.Value:
    """The weight of a product or a norm, as it is stored: its second input before any dequantization."""
    weight = origin(node.inputs[1])
    assert weight is not None
    return weight


def epsilon_of(norm: ir.Node) -> float:
    """The epsilon of an RMSNorm."""
    attribute = norm.attributes.get("epsilon")
    return attribute.as_float() if attribute is not None else 1e-5  # the operator's default


def constant_ints(value: ir.Value | None) -> tuple[int, ...]:
    """The integers of a constant; none for anything else."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tuple(int(number) for number in tensor.numpy().reshape(-1)) if tensor is not None else ()
