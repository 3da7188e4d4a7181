"""The three forms of the attention operator behind one call: PyTorch, the ONNX function, and GroupQueryAttention."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from exaone_export.cache_layout import LayerCache
from exaone_export.exporter.attention import hybrid_attention
from exaone_export.graphs.hybrid_attention import DOMAIN, INPUTS, NAME, OUTPUTS
from exaone_export.graphs.passes.group_query_attention import LowerToGroupQueryAttention
from exaone_export.graphs.pipelines import CarryBody
from tests.graphs.attention_reference import EPSILON, HEAD_DIM, HEADS, KV_HEADS, MAX_LENGTH, SCALE, Weights

Kernel = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
"""``(qkv, past_key, past_value, past_lengths, query_lengths) -> (output, present_key, present_value)``."""

KINDS = ("torch", "body", "gqa")


def make_kernel(kind: str, weights: Weights, layer: LayerCache, rotary: bool) -> Kernel:
    """Build the operator in one of its `KINDS`."""
    return _torch_kernel(weights, layer, rotary) if kind == "torch" else _onnx_kernel(kind, weights, layer, rotary)


def _torch_kernel(weights: Weights, layer: LayerCache, rotary: bool) -> Kernel:
    fixed = [torch.from_numpy(array) for array in (weights.q_norm, weights.k_norm, weights.cos, weights.sin)]

    def kernel(qkv, past_key, past_value, past_lengths, query_lengths):  # type: ignore[no-untyped-def]
        changing = [torch.from_numpy(array) for array in (past_key, past_value, past_lengths, query_lengths)]
        outputs = hybrid_attention(
            torch.from_numpy(qkv), *fixed, *changing, HEADS, KV_HEADS, SCALE, layer.window, rotary, EPSILON
        )
        return tuple(output.numpy() for output in outputs)

    return kernel


def attention_model(weights: Weights, layer: LayerCache, rotary: bool) -> ir.Model:
    """A graph of one ``exaone::HybridAttention``."""
    cache = ["batch", KV_HEADS, layer.capacity, HEAD_DIM]
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    shapes = {
        "qkv": ["batch", "sequence", width],
        "past_key": cache,
        "past_value": cache,
        "past_lengths": ["batch"],
        "query_lengths": ["batch"],
    }
    values = {}
    for name in INPUTS:
        if name in shapes:
            kind = ir.DataType.INT64 if name.endswith("lengths") else ir.DataType.FLOAT
            values[name] = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shapes[name]))
        else:
            tensor = ir.tensor(getattr(weights, name), name=name)
            values[name] = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    outputs = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        for name, shape in zip(OUTPUTS, (["batch", "sequence", HEADS * HEAD_DIM], cache, cache), strict=True)
    ]
    attributes = {
        "num_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "scale": SCALE,
        "window": layer.window,
        "rotary": int(rotary),
        "epsilon": EPSILON,
    }
    node = ir.node(NAME, list(values.values()), attributes, domain=DOMAIN, outputs=outputs)
    graph = ir.Graph(
        [values[name] for name in shapes],
        outputs,
        nodes=[node],
        initializers=[values[name] for name in INPUTS if name not in shapes],
        opset_imports={"": 24, DOMAIN: 1},
        name="attention",
    )
    return ir.Model(graph, ir_version=11)


def _onnx_kernel(kind: str, weights: Weights, layer: LayerCache, rotary: bool) -> Kernel:
    lowering = (
        CarryBody()
        if kind == "body"
        else LowerToGroupQueryAttention(MAX_LENGTH if layer.capacity <= MAX_LENGTH else layer.capacity + 1)
    )
    model = lowering(attention_model(weights, layer, rotary)).model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    names = ("qkv", "past_key", "past_value", "past_lengths", "query_lengths")

    def kernel(*arrays):  # type: ignore[no-untyped-def]
        return tuple(session.run(None, dict(zip(names, arrays, strict=True))))

    return kernel


def layer_cache(window: int, slack: int) -> LayerCache:
    """A local layer's cache of ``window + slack`` rows, or a global layer's of `MAX_LENGTH`."""
    return LayerCache(min(window + slack, MAX_LENGTH) if window else MAX_LENGTH, window)
