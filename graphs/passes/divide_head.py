"""A large vocabulary projection as several products, which a runtime prepares side by side."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["LARGE_BYTES", "PARTS", "DivideHead"]

LARGE_BYTES = 32 << 20
"""From how many bytes on a weight is divided."""

PARTS = 8
"""Into how many products."""

_COLUMNS = 64  # of which each part but the last has a multiple: kernels take as many outputs at once


class DivideHead(ir.passes.InPlacePass):
    """Let several nodes make the logits of a head in blocks, each a range of the vocabulary.

    ONNX Runtime packs the weight of one node on one thread, node after node. The vocabulary projection is the last and
    the largest, so that all other threads would wait for one. A part of the logits is what it was, to the bit.

    1. The ``MatMulNBits`` of the first output becomes `PARTS` of them and a ``Concat``. Their weights are ranges of the
       same bytes of the file: a weight in blocks lies row after row, ``[out, …]``.

    Left alone: heads of another operator, and of less than `LARGE_BYTES`.

    Requires: the weights lie in a file, as `onnx_ir.ExternalTensor`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Divide in place."""
        graph = model.graph
        head = graph.outputs[0].producer()
        if head is None or head.op_type != "MatMulNBits":
            return ir.passes.PassResult(model, modified=False)
        given, *weights = (value for value in head.inputs if value is not None)
        tensors = [weight.const_value for weight in weights if isinstance(weight.const_value, ir.ExternalTensor)]
        if len(tensors) != len(weights) or tensors[0].nbytes < LARGE_BYTES:
            return ir.passes.PassResult(model, modified=False)
        outputs = head.attributes["N"].as_int()
        each = -(-outputs // (PARTS * _COLUMNS)) * _COLUMNS
        tape, logits = ir.tape.Tape(), []
        for number, start in enumerate(range(0, outputs, each)):
            rows = slice(start, min(start + each, outputs))
            parts = [_rows(graph, tensor, rows, number) for tensor in tensors]
            attributes = {name: each.value for name, each in head.attributes.items()} | {"N": rows.stop - rows.start}
            logits.append(tape.op("MatMulNBits", [given, *parts], attributes, domain=head.domain))
        output = tape.op("Concat", logits, {"axis": -1})
        ir.convenience.replace_nodes_and_values(graph, head, [head], tape.nodes, head.outputs, [output])
        for weight in weights:
            graph.initializers.pop(str(weight.name))
        return ir.passes.PassResult(model, modified=True)


def _rows(graph: ir.Graph, tensor: ir.ExternalTensor, rows: slice, number: int) -> ir.Value:
    """An initializer of some rows of a tensor that lies in a file."""
    width = tensor.nbytes // tensor.shape.numpy()[0]
    name = f"{tensor.name}.{number}"
    part = ir.ExternalTensor(
        tensor.location,
        (tensor.offset or 0) + rows.start * width,
        (rows.stop - rows.start) * width,
        tensor.dtype,
        shape=ir.Shape((rows.stop - rows.start, *tensor.shape[1:])),
        name=name,
        base_dir=tensor.base_dir,
    )
    value = ir.Value(name=name, type=ir.TensorType(part.dtype), shape=part.shape, const_value=part)
    graph.initializers[name] = value
    return value
