"""A graph of all layers from one that has each kind of layer once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import PAST, PRESENT, CacheLayout, cache_names

__all__ = ["RepeatLayers", "kinds_of"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_STACK = "body.layers."
# The names of a layer's own values have its index after one of these.
_OWN = (_STACK, PAST, PRESENT)


def kinds_of(spec: ModelSpec, layout: CacheLayout) -> tuple[int, ...]:
    """For every layer, the number of its kind; kinds are numbered in the order of their first layers.

    Layers of one kind are the same but for their index (`LayerSpec.kind`), and so are their caches; their nodes differ
    in nothing but the weights and caches that they read.
    """
    layers = [(layer.kind, cache) for layer, cache in zip(spec.layers, layout.layers, strict=True)]
    numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers))}
    return tuple(numbers[layer] for layer in layers)


class RepeatLayers(ir.passes.InPlacePass):
    """Insert a copy of a traced layer for every layer of its kind.

    1. The nodes of a layer are those that the tracer made inside of its module; constants belong to no layer.
    2. A copy for layer ``i`` reads the output of layer ``i - 1``, the weights ``body.layers.{i}.…`` and the
       caches ``past_key_values.{i}.…``, and makes ``present.{i}.…``; its other inputs are shared by all.
    3. The traced layers are removed, with their weights, inputs and outputs.

    Left alone: everything outside of the layers.

    Requires: every traced layer is in the graph. Ensures: every layer of the result has caches.

    Args:
        traced: For every layer of the result, the layer of the traced graph that it is a copy of, see `kinds_of`; the
            traced ones are numbered from 0 on, each is copied, and weights have no data yet.
    """

    def __init__(self, traced: Sequence[int]) -> None:
        super().__init__()
        self.traced = tuple(traced)

    def requires(self, model: ir.Model) -> None:
        """Refuse a graph that does not have the traced layers."""
        for index in range(max(self.traced) + 1):
            if not _nodes_of(model.graph, index):
                raise ir.passes.PreconditionError(f"the graph has no layer {index}")

    def ensures(self, model: ir.Model) -> None:
        """Check that every layer has caches."""
        for values, prefix in ((model.graph.inputs, PAST), (model.graph.outputs, PRESENT)):
            found = [str(value.name) for value in values if str(value.name).startswith(prefix)]
            if found != cache_names(prefix, len(self.traced)):
                raise ir.passes.PostconditionError(f"the graph has the caches {found}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Copy, rewire and remove, in place."""
        graph = model.graph
        stacks = [_nodes_of(graph, index) for index in range(max(self.traced) + 1)]
        entries = [_entry(nodes) for nodes in stacks]
        exits = [_exit(nodes) for nodes in stacks]

        stream, last = entries[0], stacks[-1][-1]
        made: list[tuple[int, dict[ir.Value, ir.Value]]] = []
        for index, which in enumerate(self.traced):
            copies = {entries[which]: stream}
            nodes = [_copy(node, which, index, copies) for node in stacks[which]]
            graph.insert_after(last, nodes)
            stream, last = copies[exits[which]], nodes[-1]
            made.append((which, copies))
        exits[-1].replace_all_uses_with(stream)

        def repeated(values: Sequence[ir.Value]) -> list[ir.Value]:
            own = [copies[value] for which, copies in made for value in values if _belongs(value, which)]
            return [value for value in values if not _is_own(value)] + own

        graph.inputs[:] = repeated(graph.inputs)
        graph.outputs[:] = repeated(graph.outputs)
        weights = repeated(list(graph.initializers.values()))
        graph.remove([node for nodes in stacks for node in nodes], safe=True)
        graph.initializers.clear()
        graph.initializers.update({str(value.name): value for value in weights})
        return ir.passes.PassResult(model, modified=True)


def _nodes_of(graph: ir.Graph, index: int) -> list[ir.Node]:
    scope = repr(f"{_STACK}{index}")
    return [node for node in graph if node.op_type != "Constant" and scope in node.metadata_props.get(_SCOPES, "")]


def _entry(nodes: Sequence[ir.Node]) -> ir.Value:
    """The input of a layer: the one value that another node of the decoder computes."""
    inside = set(nodes)
    (entry,) = {
        value
        for node in nodes
        for value in node.inputs
        if value is not None
        and (maker := value.producer()) is not None
        and maker not in inside
        and maker.op_type != "Constant"
        and "'body'" in maker.metadata_props.get(_SCOPES, "")
    }
    return entry


def _exit(nodes: Sequence[ir.Node]) -> ir.Value:
    """The output of a layer: the one value that nodes outside of it read."""
    inside = set(nodes)
    (exit_,) = {
        value for node in nodes for value in node.outputs if any(use.node not in inside for use in value.uses())
    }
    return exit_


def _copy(node: ir.Node, which: int, index: int, copies: dict[ir.Value, ir.Value]) -> ir.Node:
    """``node`` of traced layer ``which`` for layer ``index``; ``copies`` learns what it reads and makes."""
    for value in _own_values(node, which):
        if value not in copies:
            copies[value] = _renamed(value, which, index)
    return ir.Node(
        node.domain,
        node.op_type,
        [copies.get(value, value) if value is not None else None for value in node.inputs],
        node.attributes.values(),
        overload=node.overload,
        outputs=[copies[value] for value in node.outputs],
        version=node.version,
        name=f"layers.{index}.{node.name}",
        metadata_props=dict(node.metadata_props),
    )


def _own_values(node: ir.Node, which: int) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None and _belongs(value, which))
    yield from node.outputs


def _renamed(value: ir.Value, which: int, index: int) -> ir.Value:
    name = str(value.name)
    for prefix in _OWN:
        if name.startswith(f"{prefix}{which}."):
            name = f"{prefix}{index}.{name.removeprefix(f'{prefix}{which}.')}"
            break
    else:
        name = f"layers.{index}.{name}"
    # A type of its own: to set a value's dtype changes the object that it holds.
    own_type = ir.TensorType(value.dtype) if value.dtype is not None else value.type
    shape = ir.Shape(value.shape) if value.shape is not None else None
    return ir.Value(name=name, type=own_type, shape=shape)


def _belongs(value: ir.Value, which: int) -> bool:
    return str(value.name).startswith(tuple(f"{prefix}{which}." for prefix in _OWN))


def _is_own(value: ir.Value) -> bool:
    return str(value.name).startswith(_OWN)
