"""A node of a graph in words: its name, its operator, and the model layer that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from exaone_export.targets.cache_layout import PAST


def layers_of_nodes(graph: ir.Graph) -> dict[str, int]:
    """The model layer of a node, by the node's name, for every node of which the graph tells it.

    A node is of the layer behind the last one whose output it is computed from, or of layer 0 where it is computed
    from that layer's cache.
    """
    last: dict[ir.Value, int] = {value: 0 for value in graph.inputs if str(value.name).startswith(f"{PAST}0.")}
    found = {}
    for node in graph:
        above = [last[value] for value in node.inputs if value in last]
        if above:
            found[str(node.name)] = max(above)
        for value in node.outputs:
            parts = str(value.name).split(".")
            if len(parts) == 3 and parts[0] == "layers" and parts[2] == "output" and parts[1].isdecimal():
                last[value] = int(parts[1]) + 1
            elif above:
                last[value] = max(above)
    return found


def describe_node(name: str, operator: str, layers: Mapping[str, int]) -> str:
    """A node in words, with its layer where that is known."""
    where = f"layer {layers[name]}, " if name in layers else ""
    return f"{where}node {name} ({operator})"
