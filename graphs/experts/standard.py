"""A sparse layer in standard operators: all experts at once, or for few tokens the chosen ones alone.

Measured with ONNX Runtime 1.32 on a processor, 32 experts of 1,024 x 512, four chosen, milliseconds of one step:

| tokens | all at once | chosen weights gathered | a loop over the chosen |
| ------ | ----------- | ----------------------- | ---------------------- |
| 1      | 51          | 19                      | 13                     |
| 4      | 180         | 74                      | 39                     |
| 16     | 289         | 281                     | 142                    |
| 128    | 1300        | too large               | 285                    |

Weights are gathered while the copies are no larger than all experts together, which an ``If`` decides. A ``Loop`` would
be faster, and is refused in artifacts, since one that is made on purpose never ends. Captured CUDA graphs and TensorRT
have no branches on values, so there all experts pass all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import onnx_ir as ir

from ..constants import ints, scalar
from .operator import RoutedExperts, ensure_lowered, routed_experts_nodes
from .routing import Routing, route, weights

__all__ = ["LowerToStandard"]

_FLOAT = ir.DataType.FLOAT
_Form = Callable[[ir.tape.Tape, RoutedExperts, Routing, ir.Value], ir.Value]


class LowerToStandard(ir.passes.InPlacePass):
    """Compute sparse layers in standard operators.

    1. The router, in float32, gives every token's experts and weights, which are spread over all experts.
    2. ``all``: one product with the stacked weights passes every token through every expert, and the sum over the
       experts leaves those with a weight. ``chosen``: while the tokens of a step choose no more experts than there
       are, the weights of each token's experts are gathered, and a token passes those alone.

    Left alone: shared experts, dense layers, and a graph without sparse ones.

    Ensures: no node of the operator is left.

    Args:
        form: ``all`` or ``chosen``.
    """

    def __init__(self, form: Literal["all", "chosen"]) -> None:
        super().__init__()
        self._form = {"all": _all, "chosen": _chosen}[form]

    def ensures(self, model: ir.Model) -> None:
        """Check that no sparse layer is left."""
        ensure_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower in place."""
        nodes = routed_experts_nodes(model)
        for found in nodes:
            tape = ir.tape.Tape()
            routing = route(tape, found)
            mixed = self._form(tape, found, routing, weights(tape, found, routing))
            output = tape.op("Reshape", [mixed, tape.op("Shape", [found.hidden])])
            output.dtype, output.shape = _FLOAT, found.hidden.shape
            found.replace(tape, output)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _all(tape: ir.tape.Tape, found: RoutedExperts, routing: Routing, chosen: ir.Value) -> ir.Value:
    experts, _, _ = found.sizes
    length = tape.op("Shape", [routing.tokens], {"start": 0, "end": 1})
    shape = tape.op("Concat", [length, ints(tape, experts)], {"axis": 0})
    nothing = tape.op("Expand", [scalar(tape, 0.0), shape])
    spread = tape.op("ScatterElements", [nothing, routing.indices, chosen], {"axis": 1})
    own = tape.op("Unsqueeze", [tape.op("Transpose", [spread], {"perm": [1, 0]}), ints(tape, 2)])
    tokens = tape.op("Unsqueeze", [_cast(tape, routing.tokens, found.dtype), ints(tape, 0)])
    weighted = tape.op("Mul", [_expert(tape, found, tokens, found.gate_up, found.down), own])
    return tape.op("ReduceSum", [weighted, ints(tape, 0)], {"keepdims": 0})


def _gathered(tape: ir.tape.Tape, found: RoutedExperts, routing: Routing, chosen: ir.Value) -> ir.Value:
    """A token of its own for every expert that a token has chosen: ``[T * K, 1, H]`` through ``[T * K, H, 2 I]``."""
    _, hidden, _ = found.sizes
    times = found.integer("chosen")
    gate_up, down = (
        tape.op("Gather", [stack, tape.op("Reshape", [routing.indices, ints(tape, -1)])], {"axis": 0})
        for stack in (found.gate_up, found.down)
    )
    tokens = tape.op("Unsqueeze", [_cast(tape, routing.tokens, found.dtype), ints(tape, 1)])
    copies = tape.op("Reshape", [tape.op("Tile", [tokens, ints(tape, 1, times, 1)]), ints(tape, -1, 1, hidden)])
    mixed = tape.op("Reshape", [_expert(tape, found, copies, gate_up, down), ints(tape, -1, times, hidden)])
    weighted = tape.op("Mul", [mixed, tape.op("Unsqueeze", [chosen, ints(tape, 2)])])
    return tape.op("ReduceSum", [weighted, ints(tape, 1)], {"keepdims": 0})


def _chosen(tape: ir.tape.Tape, found: RoutedExperts, routing: Routing, chosen: ir.Value) -> ir.Value:
    experts, hidden, _ = found.sizes
    stem = str(found.gate_up.name).removesuffix(".gate_up")
    count = tape.op("Size", [routing.indices])
    few = tape.op("LessOrEqual", [count, tape.op("Constant", [], {"value_int": experts})])

    def branch(name: str, form: _Form) -> ir.Graph:
        inner = ir.tape.Tape()
        output = form(inner, found, routing, chosen)
        for number, node in enumerate(inner.nodes):  # by names of their own: none of the graph around may be hidden
            node.name = f"{stem}.{name}.{number}"
            for position, value in enumerate(node.outputs):
                value.name = f"{node.name}.{position}"
        output.dtype, output.shape = _FLOAT, ir.Shape(("tokens", hidden))
        return ir.Graph([], [output], nodes=inner.nodes, name=name)

    branches = {"then_branch": branch("few_tokens", _gathered), "else_branch": branch("many_tokens", _all)}
    return tape.op("If", [few], branches)


def _expert(tape: ir.tape.Tape, found: RoutedExperts, tokens: ir.Value, gate_up: ir.Value, down: ir.Value) -> ir.Value:
    """SwiGLU in the weights' type, of one expert or of all; float32 comes out."""
    _, _, size = found.sizes
    packed = tape.op("MatMul", [tokens, gate_up])
    gate, up = tape.op_multi_out("Split", [packed, ints(tape, size, size)], {"axis": -1}, num_outputs=2)
    gated = tape.op("Mul", [tape.op("Mul", [gate, tape.op("Sigmoid", [gate])]), up])
    output = tape.op("MatMul", [gated, down])
    output.dtype = found.dtype
    return _cast(tape, output, _FLOAT)


def _cast(tape: ir.tape.Tape, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    return value if value.dtype == dtype else tape.op("Cast", [value], {"to": dtype})
