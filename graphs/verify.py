"""Read a finished graph back, layer by layer, and refuse one that is not its spec.

The reading shares no code with the passes: it starts from the attention nodes and follows their inputs and outputs, so
a pass that drops a window, rotates a NoPE layer or moves a norm is found here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from exaone_export.errors import GraphContradictionError
from exaone_export.model.heads import NEXT_LOGITS
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.provider import Provider
from exaone_export.targets.recipe import Recipe

from .attention_reading import AttentionReading, is_attention, read_attention
from .experts.reading import ExpertsReading, read_experts, verify_experts
from .head_reading import verify_head
from .host_inputs import check_host_inputs
from .product_reading import rounded_to, stored_type
from .topology import constant_ints, epsilon_of, is_norm, is_product, only_user, origin

_END = (1 << 63) - 1


@dataclass(frozen=True)
class LayerReading:
    """One layer, as read from a graph.

    Attributes:
        index: The layer, by the name of the cache that its attention reads.
        attention: Its attention node.
        rows: Rows of the cache's buffer; None where the caller chooses them.
        norms: ``"output"`` where both sublayers are normalized on their outputs and nowhere else, ``"input"`` where
            what they take from the residual stream is, else what was found.
        epsilons: Every RMSNorm epsilon of the layer.
        precision: Type of each weight as it is stored, by its projection.
        inputs: By projection, the type that its input is rounded to; None where it is not.
        experts: The experts of a sparse layer; None of a dense one.
        input: What the residual stream brings, before it is cast.
        output: The layer's output.
    """

    index: int
    attention: AttentionReading
    rows: int | None
    norms: str
    epsilons: tuple[float, ...]
    precision: dict[str, str]
    inputs: dict[str, str | None]
    experts: ExpertsReading | None
    input: ir.Value
    output: ir.Value

    def to_dict(self) -> dict[str, Any]:
        """The manifest's form of it."""
        return {
            "index": self.index,
            "operator": self.attention.operator,
            "position": "rope" if self.attention.rotary else "none",
            "window": self.attention.window,
            "rows": self.rows,
            "qk_norm": self.attention.qk_norm,
            "norms": self.norms,
            "precision": self.precision,
            "inputs": self.inputs,
            **({"experts": self.experts.to_dict()} if self.experts else {}),
        }


def read_layers(model: ir.Model) -> list[LayerReading]:
    """Read every layer of a graph of any target, in order.

    Raises:
        GraphContradictionError: The nodes around an attention node are not those of a decoder layer.
    """
    return sorted((_read_layer(node) for node in model.graph if is_attention(node)), key=lambda reading: reading.index)


def verify(
    model: ir.Model, spec: ModelSpec, layout: CacheLayout, recipe: Recipe, *, provider: Provider | None = None
) -> list[LayerReading]:
    """Read a finished graph and compare it with what it was made from.

    Args:
        model: The graph.
        spec: The architecture.
        layout: The caches.
        recipe: What is stored, and how.
        provider: The execution provider, if ONNX Runtime will run the graph; for CUDA, the inputs that kernels read on
            the host are also checked.

    Returns:
        The reading, one entry a layer.

    Raises:
        GraphContradictionError: The graph is not the spec's architecture; the message names the layer and the fact.
    """
    if provider is not None and provider.device == "cuda":
        check_host_inputs(model)
    readings = read_layers(model)
    if [reading.index for reading in readings] != list(range(spec.num_hidden_layers)):
        raise GraphContradictionError(
            f"the graph has attention in layers {[reading.index for reading in readings]}, "
            f"and the model has {spec.num_hidden_layers} layers."
        )
    opens = spec.head.is_causal_lm and _is_open(model)
    for reading, layer, cache in zip(readings, spec.layers, layout.layers, strict=True):
        found = reading.attention
        _demand(reading.index, "rotary", found.rotary, layer.rotary)
        _demand(reading.index, "window", found.window, layer.window)
        free = opens and not cache.evicts(layout.max_length)
        _demand(reading.index, "rows", reading.rows, None if free else cache.rows)
        _demand(reading.index, "num_heads", found.num_heads, spec.num_attention_heads)
        _demand(reading.index, "num_key_value_heads", found.num_key_value_heads, spec.num_key_value_heads)
        _demand(reading.index, "qk_norm", found.qk_norm, spec.qk_norm)
        _demand(reading.index, "norms", reading.norms, spec.norm_position)
        for name, found_type in reading.precision.items():
            storage = recipe.product(reading.index, name)
            wanted = storage.weights if storage is not None else recipe.compute_type
            _demand(reading.index, f"{name} weights of", found_type, wanted)
            _demand(reading.index, f"{name} inputs of", reading.inputs[name], storage.inputs if storage else None)
        stored = recipe.experts.weights if recipe.experts is not None else recipe.compute_type
        for clause in verify_experts(reading.experts, layer.sparse, stored):
            raise GraphContradictionError(f"layer {reading.index} of the graph {clause}.")
        if cache.evicts(layout.max_length):
            _demand(reading.index, "evicts", found.evicts, True)
        _demand_close(reading.index, "scale", found.scale, spec.head_dim**-0.5)
        for epsilon in reading.epsilons:
            _demand_close(reading.index, "epsilon", epsilon, spec.rms_norm_eps)
    verify_head(model, readings[0].input, [reading.output for reading in readings], spec, recipe)
    return [replace(reading, rows=cache.rows) for reading, cache in zip(readings, layout.layers, strict=True)]


def _is_open(model: ir.Model) -> bool:
    """Whether programs that know neither ``logits_to_keep`` nor its cache's rows run the graph: as `OpenToOthers` says.

    Raises:
        GraphContradictionError: Half of it is there.
    """
    kept = model.graph.initializers.get("logits_to_keep")
    if kept is None and all(value.name != NEXT_LOGITS for value in model.graph.outputs):
        return False
    default = None if kept is None or kept.const_value is None else kept.const_value.numpy().tolist()
    if default != [0] or kept not in model.graph.inputs:
        raise GraphContradictionError(f"the graph's default for logits_to_keep is {default}, and must be [0].")
    last = model.graph.outputs[-1]
    made = last.producer()
    if (
        last.name != NEXT_LOGITS
        or made is None
        or made.op_type != "Slice"
        or made.inputs[0] is not model.graph.outputs[0]
        or [constant_ints(bound) for bound in made.inputs[1:]] != [(-1,), (_END,), (1,)]
    ):
        raise GraphContradictionError("the graph does not give the last position's logits as its last output.")
    return True


def _read_layer(node: ir.Node) -> LayerReading:
    attention = read_attention(node)
    index, rows = _cache_index(node, attention.past_key), attention.past_key.shape
    assert rows is not None

    def wire(found: ir.Node | None, what: str) -> ir.Node:
        if found is None:
            raise GraphContradictionError(f"layer {index} of the graph has no {what} where a decoder layer has it.")
        return found

    source = next(iter(attention.sources)) if len(attention.sources) == 1 else None
    projection = wire(source if source is not None and is_product(source) else None, "projection before its attention")
    mixed = wire(only_user(node.outputs[0], is_product), "output projection")
    residual, hidden, norms, epsilons = _sublayer(projection, mixed, wire)
    front = only_user(hidden, _is_used_norm)
    given = hidden if front is None else front.outputs[0]
    experts = read_experts(given)
    gate_up = wire(
        only_user(given, lambda user: is_product(user) and (experts is None or user not in experts.products)),
        "gate and up projection on the attention's sum",
    )
    down = last = wire(_swiglu(gate_up), "down projection behind a SwiGLU")
    if experts is not None:
        last = wire(only_user(down.outputs[0], lambda user: experts.output in user.inputs), "sum with its experts")
    _, output, mlp_norms, mlp_epsilons = _sublayer(gate_up, last, wire)
    products = dict(zip(PROJECTIONS, (projection, mixed, gate_up, down), strict=True))
    return LayerReading(
        index=index,
        attention=attention,
        rows=rows[2] if isinstance(rows[2], int) else None,
        norms=norms if norms == mlp_norms else f"{norms} and {mlp_norms}",
        epsilons=(*attention.epsilons, *epsilons, *mlp_epsilons),
        precision={name: stored_type(product) for name, product in products.items()},
        inputs={name: rounded_to(product) for name, product in products.items()},
        experts=experts,
        input=residual,
        output=output,
    )


def _sublayer(first: ir.Node, last: ir.Node, wire: Any) -> tuple[ir.Value, ir.Value, str, list[float]]:
    """Follow a sublayer from its first product back to the residual stream, and from its last to the residual sum.

    Returns:
        The residual stream, the sum, on which side a norm stands, and the norms' epsilons.
    """
    stream = origin(first.inputs[0])
    front = stream.producer() if stream is not None else None
    if front is not None and is_norm(front):
        stream = origin(front.inputs[0])
    else:
        front = None
    norm = only_user(last.outputs[0], _is_used_norm)
    total = wire(only_user((norm or last).outputs[0], lambda node: node.op_type == "Add"), "residual sum")
    assert stream is not None
    if stream not in map(origin, total.inputs):
        return stream, total.outputs[0], "elsewhere", []
    found = {"input": front, "output": norm}
    sides = [side for side, each in found.items() if each is not None]
    epsilons = [epsilon_of(each) for each in found.values() if each is not None]
    return stream, total.outputs[0], " and ".join(sides) or "none", epsilons


def _is_used_norm(node: ir.Node) -> bool:
    return is_norm(node) and bool(node.outputs[0].uses())


def _swiglu(gate_up: ir.Node) -> ir.Node | None:
    """The down projection behind ``silu(gate) * up``."""
    gated = {
        user
        for part in gate_up.outputs[0].consumers()
        if part.op_type == "Split"
        for output in part.outputs
        for user in output.consumers()
    }
    sums = {user for node in gated if node.op_type == "Mul" for user in node.outputs[0].consumers()} | gated
    downs = {found for node in sums if (found := only_user(node.outputs[0], is_product)) is not None}
    return downs.pop() if len(downs) == 1 else None


def _cache_index(node: ir.Node, past_key: ir.Value | None) -> int:
    parts = (past_key.name or "").split(".") if past_key is not None else []
    if len(parts) != 3 or parts[0] != "past_key_values" or not parts[1].isdecimal():
        raise GraphContradictionError(f"attention node {node.name!r} reads no cache of the graph's inputs.")
    return int(parts[1])


def _demand(index: int, name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise GraphContradictionError(
            f"layer {index} of the graph has {name.replace('_', ' ')} {found}, and the model has {wanted}."
        )


def _demand_close(index: int, name: str, found: float, wanted: float) -> None:
    # Attributes are stored in float32.
    if abs(found - wanted) > 1e-6 * abs(wanted):
        _demand(index, name, found, wanted)
