"""The router in standard operators, in float32: which experts a token passes, and with what weights.

Legend: B batch, S query length, T tokens, E experts, K chosen experts, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..constants import ints, scalar
from .operator import RoutedExperts

__all__ = ["Routing", "route", "weights"]

_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Routing:
    """What a router chooses.

    Attributes:
        tokens: ``[T, H]`` float32, the layer's input.
        indices: ``[T, K]`` int64.
        scores: ``[T, K]`` float32, as they are before they are divided by their sum.
    """

    tokens: ir.Value
    indices: ir.Value
    scores: ir.Value


def route(tape: ir.tape.Tape, found: RoutedExperts) -> Routing:
    """Add the router of a node."""
    experts, hidden, _ = found.sizes
    groups, chosen_groups, chosen = (found.integer(name) for name in ("groups", "chosen_groups", "chosen"))
    tokens = tape.op("Reshape", [found.hidden, ints(tape, -1, hidden)])
    tokens.dtype = _FLOAT
    scores = tape.op("Sigmoid", [tape.op("MatMul", [tokens, found.router])])
    choice = tape.op("Add", [scores, found.bias])
    if chosen_groups < groups:
        grouped = tape.op("Reshape", [choice, ints(tape, -1, groups, experts // groups)])
        two, _ = tape.op_multi_out("TopK", [grouped, ints(tape, 2)], {"axis": -1}, num_outputs=2)
        sums = tape.op("ReduceSum", [two, ints(tape, -1)], {"keepdims": 0})
        best, _ = tape.op_multi_out("TopK", [sums, ints(tape, chosen_groups)], {"axis": -1}, num_outputs=2)
        # The worst group that is still chosen; a group that has as much is as good.
        worst = tape.op("ReduceMin", [best, ints(tape, -1)], {"keepdims": 1})
        inside = tape.op("Unsqueeze", [tape.op("GreaterOrEqual", [sums, worst]), ints(tape, -1)])
        left = tape.op("Where", [inside, grouped, scalar(tape, float("-inf"))])
        choice = tape.op("Reshape", [left, ints(tape, -1, experts)])
    _, indices = tape.op_multi_out("TopK", [choice, ints(tape, chosen)], {"axis": -1}, num_outputs=2)
    return Routing(tokens, indices, tape.op("GatherElements", [scores, indices], {"axis": -1}))


def weights(tape: ir.tape.Tape, found: RoutedExperts, routing: Routing) -> ir.Value:
    """``[T, K]`` float32, what the chosen experts' outputs are multiplied by."""
    scores = routing.scores
    if found.integer("normalized"):
        total = tape.op("ReduceSum", [scores, ints(tape, -1)], {"keepdims": 1})
        scores = tape.op("Div", [scores, tape.op("Add", [total, scalar(tape, 1e-20)])])
    return tape.op("Mul", [scores, scalar(tape, found.scale)])
