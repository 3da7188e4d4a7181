"""A large vocabulary projection as several products, which a runtime prepares side by side."""

from __future__ import annotations

import onnx_ir as ir

from ..tensor_rows import TensorRows

__all__ = ["LARGE_BYTES", "PARTS", "DivideHead"]

LARGE_BYTES = 32 << 20
"""From how many bytes on a weight is divided."""

PARTS = 8
"""Into how many products."""

_COLUMNS = 64  # of which each part but the last has a multiple: kernels take as many outputs at once


class DivideHead(ir.passes.InPlacePass):
    """Let several nodes make the logits of a head in blocks, each those of a range of the vocabulary.

    ONNX Runtime packs the weight of one node on one thread, node after node. The vocabulary projection is the last and
    the largest, so that all other threads would wait for one. The logits stay the same, to the bit.

    1. The ``MatMulNBits`` of the first output becomes `PARTS` of them and a ``Concat``. Their weights are `TensorRows`
       of the same tensors: a weight in blocks lies row after row, ``[out, …]``.

    Left alone: heads of another operator, and of less than `LARGE_BYTES`.

    Requires: the head's weights are bound to tensors, which need not be read.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Divide in place."""
        graph = model.graph
        head = graph.outputs[0].producer()
        if head is None or head.op_type != "MatMulNBits":
            return ir.passes.PassResult(model, modified=False)
        given, *weights = (value for value in head.inputs if value is not None)
        tensors = [weight.const_value for weight in weights if weight.const_value is not None]
        if len(tensors) != len(weights):
            raise ir.passes.PreconditionError("the head's weights have no tensors")
        if tensors[0].nbytes < LARGE_BYTES:
            return ir.passes.PassResult(model, modified=False)
        outputs = head.attributes["N"].as_int()
        size = -(-outputs // (PARTS * _COLUMNS)) * _COLUMNS
        tape, logits = ir.tape.Tape(), []
        for number, start in enumerate(range(0, outputs, size)):
            rows = slice(start, min(start + size, outputs))
            parts = [_initializer(graph, TensorRows(whole, rows, f"{whole.name}.{number}")) for whole in tensors]
            attributes = {name: attribute.value for name, attribute in head.attributes.items()} | {
                "N": rows.stop - rows.start
            }
            logits.append(tape.op("MatMulNBits", [given, *parts], attributes, domain=head.domain))
        output = tape.op("Concat", logits, {"axis": -1})
        ir.convenience.replace_nodes_and_values(graph, head, [head], tape.nodes, head.outputs, [output])
        for weight in weights:
            graph.initializers.pop(str(weight.name))
        return ir.passes.PassResult(model, modified=True)


def _initializer(graph: ir.Graph, tensor: TensorRows) -> ir.Value:
    name = str(tensor.name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.initializers[name] = value
    return value
