"""``exaone::RoutedExperts``: a router and its experts as one node of a traced graph, which every target lowers.

It computes what `exaone_export.exporter.reference.experts.routed_experts` computes, whose docstring says what the
inputs and attributes are.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from ..hybrid_attention import DOMAIN, VERSION

__all__ = ["NAME", "RoutedExperts", "ensure_lowered", "register_schema", "routed_experts_nodes"]

NAME = "RoutedExperts"
INPUTS = ("hidden", "router", "bias", "gate_up", "down")
_ATTRIBUTES = {"chosen": "INT", "groups": "INT", "chosen_groups": "INT", "normalized": "INT", "scale": "FLOAT"}


def register_schema() -> None:
    """Make the operator known to `onnx` in this process; a second call changes nothing."""
    if onnx.defs.has(NAME, DOMAIN):
        return
    kinds = dict.fromkeys(INPUTS, "F") | dict.fromkeys(INPUTS[-2:], "T")
    schema = OpSchema(
        NAME,
        DOMAIN,
        VERSION,
        doc="The sum of the experts that a router chooses for every token.",
        inputs=[OpSchema.FormalParameter(name, kinds[name]) for name in INPUTS],
        outputs=[OpSchema.FormalParameter("output", "F")],
        type_constraints=[
            ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "The experts' weights."),
            ("F", ["tensor(float)"], "The residual stream and the router."),
        ],
        attributes=[
            OpSchema.Attribute(name, getattr(OpSchema.AttrType, kind), required=True)
            for name, kind in _ATTRIBUTES.items()
        ],
    )
    onnx.defs.register_schema(schema)


@dataclass(frozen=True)
class RoutedExperts:
    """One node of the operator, with what it says.

    Attributes:
        node: The node.
        hidden: ``[B, S, H]`` float32.
        router: ``[H, E]`` float32.
        bias: ``[E]`` float32.
        gate_up: ``[E, H, 2 I]``.
        down: ``[E, I, H]``.
    """

    node: ir.Node
    hidden: ir.Value
    router: ir.Value
    bias: ir.Value
    gate_up: ir.Value
    down: ir.Value

    @classmethod
    def of(cls, node: ir.Node) -> RoutedExperts:
        """Read a node."""
        inputs = [value for value in node.inputs if value is not None]
        return cls(node, *inputs)

    @property
    def graph(self) -> ir.Graph:
        """Of the node."""
        assert isinstance(self.node.graph, ir.Graph)
        return self.node.graph

    @property
    def dtype(self) -> ir.DataType:
        """Of the experts' weights."""
        assert self.gate_up.dtype is not None
        return self.gate_up.dtype

    @property
    def sizes(self) -> tuple[int, int, int]:
        """E, H and I."""
        assert self.down.shape is not None
        experts, size, hidden = self.down.shape.numpy()
        return experts, hidden, size

    def integer(self, name: str) -> int:
        """An attribute of the node."""
        return self.node.attributes[name].as_int()

    @property
    def scale(self) -> float:
        """What the experts' weights are multiplied by."""
        return self.node.attributes["scale"].as_float()

    def replace(self, tape: ir.tape.Tape, output: ir.Value) -> None:
        """Put other nodes in its place."""
        ir.convenience.replace_nodes_and_values(
            self.graph, self.node, [self.node], tape.nodes, self.node.outputs, [output]
        )


def routed_experts_nodes(model: ir.Model) -> list[RoutedExperts]:
    """The nodes of the operator, in the order of the layers."""
    return [RoutedExperts.of(node) for node in model.graph if node.domain == DOMAIN and node.op_type == NAME]


def ensure_lowered(model: ir.Model) -> None:
    """Raise unless no node of the operator is left.

    Raises:
        onnx_ir.passes.PostconditionError: One is.
    """
    if left := [found.node.name for found in routed_experts_nodes(model)]:
        raise ir.passes.PostconditionError(f"sparse layers {left} were not lowered")
