"""What every layer takes in, as outputs of the graph."""

from __future__ import annotations

import onnx_ir as ir

from exaone_export.model.spec import ModelSpec

from ..head_reading import hidden_state_sources, kept_positions
from ..topology import producer
from ..verify import read_layers


class GiveHiddenStates(ir.passes.InPlacePass):
    """Give the embeddings and every layer's output beside the last hidden states, in float32.

    1. For each of them ``GatherElements`` takes the positions that the final norm takes of the last layer, a cast makes
       float32 where it is not, and the result is an output ``hidden_states.{i}`` behind the head's own.

    Left alone: a model whose head gives the last hidden states alone; every other node.

    Requires: the final norm reads the last layer by ``GatherElements``.

    Args:
        spec: The architecture.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.names = list(spec.output_shapes)[len(spec.head.outputs) :]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the outputs in place."""
        if not self.names:
            return ir.passes.PassResult(model, modified=False)
        readings, last = read_layers(model), model.graph.outputs[0]
        norm = producer(last)
        indices = None if norm is None else kept_positions(norm, readings[-1].output)
        if indices is None:
            raise ir.passes.PreconditionError("the final norm does not read positions of the last layer")
        layers, tape = [reading.output for reading in readings], ir.tape.Tape()
        given = []
        for name, source in zip(self.names, hidden_state_sources(readings[0].input, layers), strict=True):
            value = tape.op("GatherElements", [source, indices], {"axis": 1})
            if source.dtype not in (None, ir.DataType.FLOAT):
                value = tape.op("Cast", [value], {"to": ir.DataType.FLOAT})
            value.name, value.dtype, value.shape = name, ir.DataType.FLOAT, ir.Shape(last.shape or ())
            given.append(value)
        model.graph.extend(tape.nodes)
        model.graph.outputs[1:1] = given
        return ir.passes.PassResult(model, modified=True)
