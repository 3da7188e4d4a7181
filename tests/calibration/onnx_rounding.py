"""ONNX Runtime's rounding to a number format, for the tests to compare with."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

ONNX_TYPES = {"int8": TensorProto.INT8, "int4": TensorProto.INT4, "float8_e4m3fn": TensorProto.FLOAT8E4M3FN}


def onnx_round_trip(x: np.ndarray, scale: np.ndarray, name: str, *, axis: int, block: int = 0) -> np.ndarray:
    """``DequantizeLinear(QuantizeLinear(x))`` of opset 24 in ONNX Runtime."""
    attributes = {"axis": axis} | ({"block_size": block} if block else {})
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["q"], output_dtype=ONNX_TYPES[name], **attributes),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "round_trip",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in (("x", x), ("scale", scale))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x, "scale": scale})
    return np.asarray(y)
