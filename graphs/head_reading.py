"""Read the head of a finished graph back: what stands between the last layer and each of the graph's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import onnx_ir as ir

from exaone_export.errors import GraphContradictionError
from exaone_export.model.heads import NEXT_LOGITS, QUESTION_ANSWERING
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import PRESENT
from exaone_export.targets.recipe import Recipe

from .product_reading import stored_type
from .tensor_rows import follows
from .topology import constant_ints, is_norm, is_product, origin, producer, weight_of

__all__ = ["hidden_state_sources", "kept_positions", "verify_head"]


def verify_head(
    model: ir.Model, embedded: ir.Value, layers: Sequence[ir.Value], spec: ModelSpec, recipe: Recipe
) -> None:
    """Compare the head of a graph with the model's.

    Args:
        model: The graph.
        embedded: What enters the first layer.
        layers: Every layer's output.
        spec: The architecture.
        recipe: What is stored, and how.

    Raises:
        GraphContradictionError: An output, the product, its bias or the norm before it is not the model's.
    """
    outputs = [value for value in model.graph.outputs if not str(value.name).startswith((PRESENT, NEXT_LOGITS))]
    names = [str(value.name) for value in outputs]
    if names != list(spec.output_shapes):
        raise GraphContradictionError(
            f"the graph gives {', '.join(names)}, and the model's head gives {', '.join(spec.output_shapes)}."
        )
    for value, (name, size) in zip(outputs, spec.output_shapes.items(), strict=True):
        if value.shape is not None and (found := tuple(value.shape)[2:]) != size:
            raise GraphContradictionError(
                f"the graph's {name} has the shape {list(found)} for each token, and the model's has {list(size)}."
            )
    kept = None
    for position, (value, name) in enumerate(zip(outputs, spec.head.outputs, strict=False)):
        normed = _before_product(value, name, position, spec, recipe)
        norm = producer(normed)
        kept = kept_positions(norm, layers[-1]) if norm is not None and is_norm(norm) else None
        if kept is None:
            end = "the vocabulary matrix" if spec.head.is_causal_lm else f"its {name}"
            raise GraphContradictionError(f"the graph has no final norm between the last layer and {end}.")
    inner = outputs[len(spec.head.outputs) :]
    for layer, (value, source) in enumerate(zip(inner, hidden_state_sources(embedded, layers), strict=False)):
        gather = producer(value)
        if gather is None or gather.op_type != "GatherElements" or origin(gather.inputs[0]) is not origin(source):
            raise GraphContradictionError(f"the graph's {value.name} is not what layer {layer} takes in.")
        if gather.inputs[1] is not kept:
            raise GraphContradictionError(f"the graph's {value.name} is of other positions than its last_hidden_state.")
    if spec.head.is_causal_lm and recipe.head is None:  # quantized, the two are stored apart, each for its operator
        _verify_tying(model, producer(outputs[0]), spec)


def kept_positions(norm: ir.Node, last: ir.Value) -> ir.Value | None:
    """The indices of the positions whose outputs are given, where the final norm takes them from the last layer."""
    kept = producer(norm.inputs[0])
    if kept is None or kept.op_type != "GatherElements" or kept.inputs[0] is not last:
        return None
    return kept.inputs[1]


def hidden_state_sources(embedded: ir.Value, layers: Sequence[ir.Value]) -> list[ir.Value]:
    """What every layer takes in: the embeddings, and the outputs of all layers but the last."""
    return [embedded, *layers[:-1]]


def _before_product(value: ir.Value, name: str, position: int, spec: ModelSpec, recipe: Recipe) -> ir.Value | None:
    """What the head's product takes, or the output itself where the model has no product."""
    if spec.head.module is None:
        return value
    node = producer(value)
    if spec.head.kind == QUESTION_ANSWERING:
        if node is None or node.op_type != "Gather" or _gathered(node) != (-1, position):
            raise GraphContradictionError(f"the graph's {name} is not number {position} of the head's product.")
        node = producer(node.inputs[0])
    bias = node is not None and node.op_type == "Add"
    product = producer(node.inputs[0]) if node is not None and bias else node
    if product is not None and product.op_type == "Concat":
        product = _part(product, spec.vocab_size)
    if product is None or not is_product(product):
        raise GraphContradictionError(f"the graph's {name} is not made by a product with the head's weight.")
    if bias != spec.head.bias:
        words = ("has a bias", "has none") if bias else ("has no bias", "has one")
        raise GraphContradictionError(f"the graph's head {words[0]}, and the model's {words[1]}.")
    if (stored := stored_type(product)) != recipe.head_type:
        what = "vocabulary matrix" if spec.head.is_causal_lm else "head"
        raise GraphContradictionError(f"the graph's {what} is {stored}, and its recipe says {recipe.head_type}.")
    return product.inputs[0]


def _part(concat: ir.Node, size: int) -> ir.Node | None:
    """The first of the products that together make ``size`` outputs in turn; None where they do not."""
    parts = [part for value in concat.inputs if (part := producer(value)) is not None and part.op_type == "MatMulNBits"]
    axis = concat.attributes.get("axis")
    if not parts or len(parts) != len(concat.inputs) or axis is None or axis.as_int() != -1:
        return None
    if sum(map(_outputs, parts)) != size or not all(map(_goes_on, parts[1:], parts)):
        return None
    return parts[0]


def _outputs(product: ir.Node) -> int:
    """How many outputs a product's stored weight makes; 0 where it has none."""
    weight = product.inputs[1] if len(product.inputs) > 1 else None
    tensor = weight.const_value if weight is not None else None
    return int(tensor.shape.numpy()[0]) if tensor is not None and len(tensor.shape) else 0


def _goes_on(product: ir.Node, before: ir.Node) -> bool:
    """Whether a product takes the input of the one before it, and weights of the same kind that follow its weights."""
    alike = product.inputs[0] is before.inputs[0] and stored_type(product) == stored_type(before)
    pairs = list(zip_longest(product.inputs[1:], before.inputs[1:]))
    return alike and all(
        after is not None and first is not None and follows(after.const_value, first.const_value)
        for after, first in pairs
    )


def _gathered(node: ir.Node) -> tuple[int, ...]:
    """The axis that a gathering of the head's ``[B, K, 2]`` takes numbers of, counted from the end, and which ones."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return axis - 3 if axis >= 0 else axis, *constant_ints(node.inputs[1])


def _verify_tying(model: ir.Model, product: ir.Node | None, spec: ModelSpec) -> None:
    assert product is not None
    tied = weight_of(product) in {node.inputs[0] for node in model.graph if node.op_type.startswith("Gather")}
    if tied != spec.shares_embedding:
        raise GraphContradictionError(
            f"the graph's embeddings are {'tied' if tied else 'untied'}, "
            f"and the model's are {'tied' if spec.shares_embedding else 'untied'}."
        )
