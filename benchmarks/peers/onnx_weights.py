"""The bytes of an ONNX graph's weights that one token reads."""

from __future__ import annotations

import math
from pathlib import Path

ROW_PICKERS = {"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"}
"""Operators that read single rows of a table: of word embeddings, and of cosines and sines."""


def read_per_token(path: Path) -> int:
    """Bytes of all initializers but those of which only single rows are read; what is stored once counts once."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    read = {name for node in graph.node if node.op_type not in ROW_PICKERS for name in node.input}
    sizes = {}
    for tensor in graph.initializer:
        if tensor.name in read:
            place = tuple(sorted((entry.key, entry.value) for entry in tensor.external_data)) or tensor.name
            sizes[place] = _bytes(tensor)
    return sum(sizes.values())


def _bytes(tensor: object) -> int:
    import onnx

    elements = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (elements + 1) // 2
    return elements * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
