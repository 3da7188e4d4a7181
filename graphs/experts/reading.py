"""Read a sparse layer's router and experts back from a graph of any target.

The reading shares no code with the passes: it starts from what the layer's feed-forward network takes in, and follows
the router's product to the scores, the choice, and what the chosen scores weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from exaone_export.errors import GraphContradictionError
from exaone_export.model.sparse_mlp import SparseMlp

from ..topology import constant_ints, is_product, moves, origin, producer, weight_of
from .operator import INPUTS, NAME

__all__ = ["ExpertsReading", "read_experts", "verify_experts"]

_KERNELS: dict[str, str | None] = {"MoE": None, "QMoE": "expert_weight_bits"}


@dataclass(frozen=True)
class ExpertsReading:
    """The experts of one layer, as read from a graph.

    Attributes:
        operator: What computes them: the traced node, ``MoE``, ``QMoE``, ``MatMul`` for all at once, or ``If`` where
            few tokens pass the chosen ones alone.
        products: The router's, and that of all experts at once where there is one: not those of the shared experts.
        experts: How many there are.
        chosen: How many pass a token.
        groups: Groups and how many of them are left to choose from; (1, 1) where all are.
        normalized: Whether the chosen scores are divided by their sum.
        scale: What they are multiplied by.
        bias: Whether a bias is added to what experts are chosen by.
        router_type: Type of the router's weight.
        precision: Type of the experts' stored weights.
        output: Their weighted sum.
    """

    operator: str
    products: tuple[ir.Node, ...]
    experts: int
    chosen: int
    groups: tuple[int, int]
    normalized: bool
    scale: float
    bias: bool
    router_type: str
    precision: str
    output: ir.Value

    def to_dict(self) -> dict[str, Any]:
        """The manifest's form of it."""
        return {
            "operator": self.operator,
            "experts": self.experts,
            "chosen": self.chosen,
            "groups": list(self.groups),
            "normalized": self.normalized,
            "scale": self.scale,
            "precision": self.precision,
        }


def read_experts(given: ir.Value) -> ExpertsReading | None:
    """Read the experts that take in a value; None where none do.

    Raises:
        GraphContradictionError: There is a router, and what it chooses is not wired as a sparse layer's.
    """
    for node in _users(given):
        if node.op_type == NAME:
            return _traced(node)
        if is_product(node) and _next(node.outputs[0], "Sigmoid") is not None:
            try:
                return _lowered(node)
            except (_MissingWireError, IndexError, KeyError, ValueError) as missing:
                raise GraphContradictionError(
                    f"the graph has the router {node.name!r} and no experts behind it as a sparse layer has them."
                ) from missing
    return None


def verify_experts(found: ExpertsReading | None, wanted: SparseMlp | None, precision: str) -> Iterator[str]:
    """What a layer's experts are otherwise than the model's, a clause each.

    Args:
        found: In the graph; None where the layer is dense.
        wanted: Of the model.
        precision: Type of the experts' stored weights.
    """
    if found is None or wanted is None:
        if (found is None) != (wanted is None):
            yield f"is {'dense' if found is None else 'sparse'}, and the model's is not"
        return
    limits = wanted.topk_group < wanted.n_group
    facts: dict[str, tuple[object, object]] = {
        "experts": (found.experts, wanted.num_experts),
        "chosen experts": (found.chosen, wanted.num_experts_per_tok),
        "groups": (found.groups, (wanted.n_group, wanted.topk_group) if limits else (1, 1)),
        "scores divided by their sum": (found.normalized, wanted.norm_topk_prob),
        "a bias of the choice": (found.bias, True),
        "a router of": (found.router_type, "float32"),
        "experts of": (found.precision, precision),
    }
    for name, (is_, should) in facts.items():
        if is_ != should:
            yield f"has {name} {is_}, and the model has {should}"
    if abs(found.scale - wanted.routed_scaling_factor) > 1e-6 * wanted.routed_scaling_factor:
        yield f"scales its experts by {found.scale}, and the model by {wanted.routed_scaling_factor}"


def _traced(node: ir.Node) -> ExpertsReading:
    given = node.attributes
    groups = (given["groups"].as_int(), given["chosen_groups"].as_int())
    return ExpertsReading(
        node.op_type,
        (),
        _columns(_input(node, INPUTS.index("router"))),
        given["chosen"].as_int(),
        groups if groups[1] < groups[0] else (1, 1),
        bool(given["normalized"].as_int()),
        given["scale"].as_float(),
        True,
        _type(_input(node, INPUTS.index("router"))),
        _type(_input(node, INPUTS.index("gate_up"))),
        node.outputs[0],
    )


def _lowered(router: ir.Node) -> ExpertsReading:
    """Read what stands behind a router's product; raises `_MissingWireError`."""
    scores = _user(router.outputs[0], "Sigmoid").outputs[0]
    gather = _user(scores, "GatherElements")
    top = _maker(gather.inputs[1])
    bias, groups = _choice(_input(top, 0), scores)
    weight = weight_of(router)
    mixing, normalized, scale = _mixing(gather)
    operator, output = _behind(mixing, router)
    return ExpertsReading(
        operator,
        (router, *_products(mixing)),
        _columns(weight),
        sum(constant_ints(top.inputs[1])),
        groups,
        normalized,
        scale,
        bias,
        _type(weight),
        _stored(mixing),
        output,
    )


def _choice(chosen_by: ir.Value, scores: ir.Value) -> tuple[bool, tuple[int, int]]:
    """Whether a bias is added before the choice, and the groups."""
    node, groups = _maker(chosen_by), (1, 1)
    if node.op_type == "Reshape":
        where = _maker(node.inputs[0])
        grouped = _maker(where.inputs[1])
        inside = _maker(_maker(where.inputs[0]).inputs[0])
        best = _maker(_maker(inside.inputs[1]).inputs[0])
        _, count, _ = constant_ints(grouped.inputs[1])
        groups = (count, sum(constant_ints(best.inputs[1])))
        node = _maker(grouped.inputs[0])
    bias = node.op_type == "Add" and node.inputs[0] is scores and _input(node, 1).is_initializer()
    return bias, groups


def _mixing(gather: ir.Node) -> tuple[ir.Node, bool, float]:
    """The node that mixes experts, whether scores are divided by their sum, and what they are multiplied by."""
    scores = gather.outputs[0]
    if (clipped := _next(scores, "Max")) is not None:
        spread = _user(_user(clipped.outputs[0], "Log").outputs[0], "ScatterElements")
        node = next((user for user in spread.outputs[0].consumers() if user.op_type in _KERNELS), None)
        if node is None or node.attributes["normalize_routing_weights"].as_int() != 1:
            raise _MissingWireError
        factor = _input(_user(node.outputs[0], "Mul"), 1)
        maker = factor.producer()
        if maker is not None and maker.op_type == "Mul":
            return node, False, _number(maker.inputs[1])
        return node, True, _number(factor)
    divided = _next(scores, "Div")
    scaled = _user(scores if divided is None else divided.outputs[0], "Mul")
    turned = _user(_user(scaled.outputs[0], "ScatterElements").outputs[0], "Transpose")
    weighted = _user(_user(turned.outputs[0], "Unsqueeze").outputs[0], "Mul")
    product = _maker(weighted.inputs[0])
    while product.op_type != "MatMul":
        product = _maker(product.inputs[0])
    return product, divided is not None, _number(scaled.inputs[1])


def _products(mixing: ir.Node) -> Iterator[ir.Node]:
    """Both products of all experts at once, from the second one back."""
    if mixing.op_type not in _KERNELS:
        first = producer(mixing.inputs[0])
        while first is not None and not is_product(first):
            first = producer(first.inputs[0])
        yield from (node for node in (mixing, first) if node is not None)


def _stored(mixing: ir.Node) -> str:
    """The type of the experts' weights."""
    if mixing.op_type in _KERNELS:
        bits = _KERNELS[mixing.op_type]
        return _type(mixing.inputs[2]) if bits is None else f"int{mixing.attributes[bits].as_int()}"
    return _type(weight_of(mixing))


def _behind(mixing: ir.Node, router: ir.Node) -> tuple[str, ir.Value]:
    """The operator that gives the experts' weighted sum, and that sum in the shape of the layer's input."""
    value, operator = mixing.outputs[0], mixing.op_type
    while True:
        node = next(iter(value.consumers()), None)
        if node is None:  # the end of a branch
            node = _parent(value, router)
            operator = node.op_type
        if node.op_type == "Add":
            return operator, value
        value = node.outputs[0]


def _parent(value: ir.Value, router: ir.Node) -> ir.Node:
    """The node beside the router that has a branch which ends in a value."""
    for node in router.graph or ():
        if node.op_type == "If" and any(value in branch.as_graph().outputs for branch in node.attributes.values()):
            return node
    raise _MissingWireError


class _MissingWireError(Exception):
    """A node is not there, or is another one."""


def _users(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that use a value, or what only moves it."""
    for node in value.consumers():
        if moves(node):
            for output in node.outputs:
                yield from _users(output)
        else:
            yield node


def _next(value: ir.Value, op_type: str) -> ir.Node | None:
    """The first user of a value that is such a node."""
    return next((node for node in value.consumers() if node.op_type == op_type), None)


def _user(value: ir.Value, op_type: str) -> ir.Node:
    """As `_next`, where it must be there."""
    if (node := _next(value, op_type)) is None:
        raise _MissingWireError
    return node


def _maker(value: ir.Value | None) -> ir.Node:
    """The node that computes a value."""
    if value is None or (node := value.producer()) is None:
        raise _MissingWireError
    return node


def _input(node: ir.Node, number: int) -> ir.Value:
    value = node.inputs[number]
    if value is None:
        raise _MissingWireError
    return value


def _number(value: ir.Value | None) -> float:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None:
        raise _MissingWireError
    return float(tensor.numpy().reshape(-1)[0])


def _columns(weight: ir.Value) -> int:
    assert weight.shape is not None
    return int(weight.shape.numpy()[1])


def _type(value: ir.Value | None) -> str:
    stored = origin(value)
    assert stored is not None and stored.dtype is not None
    return str(stored.dtype.numpy().name)
