"""The forms of the attention operator behind one call: PyTorch, the ONNX function, and what targets lower it to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from exaone_export.exporter.reference.attention import hybrid_attention
from exaone_export.graphs.hybrid_attention import DOMAIN, INPUTS, NAME, OUTPUTS
from exaone_export.graphs.passes.group_query_attention import LowerToGroupQueryAttention
from exaone_export.graphs.passes.tensor_scatter import LowerToTensorScatter
from exaone_export.graphs.pipelines import CarryBody
from exaone_export.runtime.core.eviction import evict
from exaone_export.targets.cache_layout import CacheLayout, LayerCache
from tests.graphs.attention_reference import EPSILON, HEAD_DIM, HEADS, KV_HEADS, MAX_LENGTH, SCALE, Weights

Kernel = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
"""``(qkv, past_key, past_value, past_lengths, query_lengths) -> (output, present_key, present_value)``."""

KINDS = ("torch", "body", "gqa", "scatter")
STALE = {"scatter": 1e3}
"""What may stand in unused slots of the kinds that multiply them by zero; NaN may in all others."""

_HEADROOM = 64


def make_kernel(kind: str, weights: Weights, layer: LayerCache, rotary: bool) -> Kernel:
    """Build the operator in one of its `KINDS`."""
    if kind == "torch":
        return _torch_kernel(weights, layer, rotary)
    if kind == "scatter":
        return _scatter_kernel(weights, layer, rotary)
    lowering = (
        CarryBody()
        if kind == "body"
        else LowerToGroupQueryAttention(MAX_LENGTH if layer.capacity <= MAX_LENGTH else layer.capacity + 1)
    )
    return _onnx_kernel(lowering, weights, layer, rotary)


def _torch_kernel(weights: Weights, layer: LayerCache, rotary: bool) -> Kernel:
    fixed = [torch.from_numpy(array) for array in (weights.q_norm, weights.k_norm, weights.cos, weights.sin)]

    def kernel(qkv, past_key, past_value, past_lengths, query_lengths):  # type: ignore[no-untyped-def]
        changing = [torch.from_numpy(array) for array in (past_key, past_value, past_lengths, query_lengths)]
        outputs = hybrid_attention(
            torch.from_numpy(qkv), *fixed, *changing, HEADS, KV_HEADS, SCALE, layer.window, rotary, EPSILON
        )
        return tuple(output.numpy() for output in outputs)

    return kernel


def attention_model(weights: Weights, layer: LayerCache, rotary: bool, *, mask: bool = False) -> ir.Model:
    """A graph of one ``exaone::HybridAttention``; with ``mask``, its columns are among the inputs."""
    cache = ["batch", KV_HEADS, layer.rows, HEAD_DIM]
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
    inputs = [values[name] for name in shapes]
    if mask:
        columns = ir.Shape(["batch", "total"])
        inputs.append(ir.Value(name="attention_mask", type=ir.TensorType(ir.DataType.INT64), shape=columns))
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=[node],
        initializers=[values[name] for name in INPUTS if name not in shapes],
        opset_imports={"": 24, DOMAIN: 1},
        name="attention",
    )
    return ir.Model(graph, ir_version=11)


def _scatter_kernel(weights: Weights, layer: LayerCache, rotary: bool) -> Kernel:
    """The graph and the session's eviction behind it, which together are the operator."""
    appended = LayerCache(layer.capacity, layer.window, _HEADROOM if layer.window else 0)
    layout = CacheLayout(len(weights.cos), (appended,))
    kernel = _onnx_kernel(LowerToTensorScatter(layout), weights, appended, rotary)

    def evicting(qkv, past_key, past_value, past_lengths, query_lengths):  # type: ignore[no-untyped-def]
        room = ((0, 0), (0, 0), (0, appended.headroom), (0, 0))
        past = [np.pad(cache, room, constant_values=STALE["scatter"]) for cache in (past_key, past_value)]
        output, *present = kernel(qkv, *past, past_lengths, query_lengths)
        evict(present, layout, past_lengths, past_lengths + query_lengths)
        return output, *(cache[:, :, : layer.capacity] for cache in present)

    return evicting


def _onnx_kernel(lowering: ir.passes.PassBase, weights: Weights, layer: LayerCache, rotary: bool) -> Kernel:
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
