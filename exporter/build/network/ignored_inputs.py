"""Find inputs that TensorRT's parser drops without a warning.

The parser takes nodes whose inputs it has no use for (``Attention``'s ``nonpad_kv_seqlen`` is one), says nothing, and
builds a network that computes something else. So every input of every node is looked for in the network.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from exaone_export.errors import GraphContradictionError

from .node_words import describe_node, layers_of_nodes
from .wiring import Wiring

_AGAIN = "export the model again with this version."


def check_no_input_ignored(graph: ir.Graph, parser: Any, wiring: Wiring) -> None:
    """Refuse a network in which a node's result does not come from each of the node's inputs.

    Left alone: inputs that are constants, which the parser may turn into settings of a layer.

    Args:
        graph: What was parsed; every node has a name of its own.
        parser: The `OnnxParser` that did.
        wiring: The network.

    Raises:
        GraphContradictionError: The message names the node and the input, or the graph's input that nothing reads.
    """
    _refuse_shared_names(graph)
    tensors: dict[ir.Value, str] = {value: str(value.name) for value in graph.inputs}
    nodes = []
    for node in graph:
        inputs = [value for value in node.inputs if value in tensors]
        if inputs:
            made = [parser.get_layer_output_tensor(node.name, output.index()) for output in node.outputs]
            tensors |= {value: tensor.name for value, tensor in zip(node.outputs, made, strict=True) if tensor}
            nodes.append((node, inputs))
    known = set(tensors.values())
    layers = layers_of_nodes(graph)
    for node, inputs in nodes:
        reached = _inside(wiring, {tensors[value] for value in node.outputs if value in tensors}, known)
        for value in inputs:
            if tensors[value] not in reached:
                raise GraphContradictionError(
                    f"{describe_node(str(node.name), node.op_type, layers)} does not use its input {value.name} in the "
                    f"network that TensorRT made of the graph; {_AGAIN}"
                )
    _refuse_unread_inputs(graph, wiring)


def _inside(wiring: Wiring, results: set[str], known: set[str]) -> set[str]:
    """The tensors that ``results`` come from, up to those that other nodes make."""
    reached, _ = wiring.behind(results, lambda name, _: name in known and name not in results)
    return reached


def _refuse_shared_names(graph: ir.Graph) -> None:
    names = Counter(node.name for node in graph)
    shared = [name for name, count in names.items() if count > 1 or not name]
    if shared:
        raise GraphContradictionError(f"{names[shared[0]]} nodes of the graph are named {shared[0]!r}; {_AGAIN}")


def _refuse_unread_inputs(graph: ir.Graph, wiring: Wiring) -> None:
    reached, _ = wiring.behind((value.name for value in graph.outputs), lambda _name, _maker: False)
    for value in graph.inputs:
        if value.name not in reached:
            raise GraphContradictionError(
                f"input {value.name} of the graph is read by no layer of the network; {_AGAIN}"
            )
