"""Refuse a graph in which ONNX Runtime's CUDA kernels would read, on the host, a value that the device computes.

Some inputs of a CUDA kernel are read on the host: shapes, axes, slice bounds, the longest sequence of an attention. If
such a value is computed on the device, ONNX Runtime copies it back and does not wait for the copy before the kernel of
the same stream reads it, so that the kernel may see an earlier number. Seen with 1.31.1 on an H100: an attention that
stops with "total sequence length must be positive", or runs and is wrong.
"""

from __future__ import annotations

import onnx_ir as ir

from exaone_export.errors import GraphContradictionError

# By operator, the inputs that the kernels of ONNX Runtime's CUDA provider declare to be in host memory.
HOST_INPUTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): (7,),
    ("com.microsoft", "GroupQueryAttention"): (6,),
    ("com.microsoft", "MultiHeadAttention"): (8,),
    ("com.microsoft", "SparseAttention"): (7,),
    ("", "Clip"): (1, 2),
    ("", "ConstantOfShape"): (0,),
    ("", "CumSum"): (1,),
    ("", "Dropout"): (1, 2),
    ("", "Expand"): (1,),
    ("", "If"): (0,),
    ("", "Loop"): (0, 1),
    ("", "OneHot"): (1,),
    ("", "Pad"): (1, 2, 3),
    ("", "Range"): (0, 1, 2),
    ("", "Reshape"): (1,),
    ("", "Resize"): (1, 2, 3),
    ("", "Slice"): (1, 2, 3, 4),
    ("", "Split"): (1,),
    ("", "SplitToSequence"): (1,),
    ("", "Squeeze"): (1,),
    ("", "Tile"): (1,),
    ("", "TopK"): (1,),
    ("", "Trilu"): (1,),
    ("", "Unsqueeze"): (1,),
}
HOST_INPUTS |= {
    ("", f"Reduce{kind}"): (1,)
    for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
}

# What a tensor's shape alone decides; its producer may run anywhere.
_SHAPES = frozenset({"Shape", "Size"})


def check_host_inputs(model: ir.Model) -> None:
    """Raise unless every input that a CUDA kernel reads on the host is computed there.

    A value is the host's if it is a constant, a tensor's shape, or computed from such values alone, which ONNX Runtime
    then does on the CPU. An input of the graph is the device's: sessions bind it there.

    Raises:
        GraphContradictionError: A value of the device reaches such an input; the message names both.
    """
    host: dict[ir.Value, bool] = {}
    for node in model.graph:
        domain = "" if node.domain == "ai.onnx" else node.domain
        known = [_on_host(value, host) for value in node.inputs if value is not None]
        for index in HOST_INPUTS.get((domain, node.op_type), ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and not _on_host(value, host):
                raise GraphContradictionError(
                    f"{node.op_type} {node.name!r} reads {value.name!r} on the host, and the graph computes it on the "
                    f"device; compute it from shapes and constants."
                )
        of_host = node.op_type in _SHAPES or all(known)
        host |= dict.fromkeys(node.outputs, of_host)


def _on_host(value: ir.Value, host: dict[ir.Value, bool]) -> bool:
    if value.is_graph_input():
        return False
    return value.is_initializer() or value.const_value is not None or host.get(value, False)
