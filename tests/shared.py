"""What a run makes once for all of its workers: files and folders, and traces of the reference model."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from exaone_export.exporter import export as pipeline
from exaone_export.exporter.reference import tracing
from exaone_export.graphs.passes.repeat_layers import kinds_of
from exaone_export.model.spec import ModelSpec, RopeSpec
from exaone_export.targets.cache_layout import CacheLayout


def made_once(folder: Path, key: object, make: Callable[[Path], object]) -> Path:
    """What ``make(path)`` makes, a file or a folder, in this worker or in another one; nobody changes it afterwards."""
    path = folder / hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}")
            make(draft)
            draft.rename(path)
    return path


# Sizes of the model that is traced: neither they nor what is made of them is any other number of a traced graph.
_SIZES = {
    "vocab_size": 10_007,
    "hidden_size": 5_003,
    "intermediate_size": 3_001,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 202,
    "max_position_embeddings": 20_011,
}
_LABELS = tuple(map(str, range(211)))


@contextmanager
def traces_made_once(share: Callable[..., Path]) -> Iterator[None]:
    """Exports of one structure are traced once a run, which is most of what a small one takes."""

    def trace(spec: ModelSpec, layout: CacheLayout, dtype: torch.dtype) -> ir.Model:
        kinds = kinds_of(spec, layout)
        firsts = [kinds.index(kind) for kind in range(max(kinds) + 1)]
        spec = spec.with_layers(firsts)
        layout = dataclasses.replace(layout, layers=tuple(layout.layers[first] for first in firsts))
        traced = structure(spec)

        def make(path: Path) -> None:
            path.write_bytes(as_bytes(tracing.trace_whole(traced, layout, torch.float16)))

        return resized(computed_in(dtype, _load(share(traced, make))), traced, spec, layout)

    # PyTorch's table of operators takes a quarter of a trace, and is the same for all.
    table = functools.cache(ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "trace", trace)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(table))
        yield


def as_bytes(traced: ir.Model) -> bytes:
    """A graph whose weights are names, types and shapes: a file that there is not stands for their data."""
    for name, value in traced.graph.initializers.items():
        if value.const_value is None or isinstance(value.const_value.raw, torch.Tensor):
            value.const_value = ir.ExternalTensor("weights", 0, 0, value.dtype, shape=value.shape, name=name)
    # What the tracer tells of a node for a reader has sizes in it; its modules alone are read.
    for node in traced.graph:
        for key in node.metadata_props.keys() - {"pkg.torch.onnx.name_scopes"}:
            del node.metadata_props[key]
    traced.graph.metadata_props.clear()
    return ir.to_proto(traced).SerializeToString(deterministic=True)


def _load(path: Path) -> ir.Model:
    traced = ir.load(path)
    for value in traced.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    return traced


_KINDS = {
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float32: ir.DataType.FLOAT,
}


def computed_in(dtype: torch.dtype, traced: ir.Model) -> ir.Model:
    """The trace of a model in float16 as one in another type, in place; in float32 the casts to it change nothing."""
    kind = _KINDS[dtype]
    graph = traced.graph
    for value in (*graph.inputs, *graph.initializers.values(), *(each for node in graph for each in node.outputs)):
        if value.dtype == ir.DataType.FLOAT16:
            value.dtype = kind
    for node in graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", kind)
    for node in [node for node in graph if node.op_type == "Cast" and node.inputs[0].dtype == node.outputs[0].dtype]:
        [source], [cast] = node.inputs, node.outputs
        if cast.is_graph_output():
            source.name = cast.name
        ir.convenience.replace_all_uses_with(cast, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    return traced


def structure(spec: ModelSpec) -> ModelSpec:
    """What a trace depends on but for sizes: the kinds of layers, and the head."""
    return dataclasses.replace(
        spec,
        **_SIZES,
        rms_norm_eps=1e-5,
        sliding_window=None if spec.sliding_window is None else 7,
        rope=RopeSpec("default", 10_000.0),
        tie_word_embeddings=spec.shares_embedding,
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
        dtype=None,
        head=dataclasses.replace(
            spec.head, labels=spec.head.labels and _LABELS, problem_type=None, hidden_states=False
        ),
    )


def resized(graph: ir.Model, traced: ModelSpec, spec: ModelSpec, layout: CacheLayout) -> ir.Model:
    """The trace of another model of the same structure, with caches of its own, in place."""
    sizes = dict(zip(_sizes(traced), _sizes(spec), strict=True))
    attentions = iter(spec.layers)
    for node in graph.graph:
        for name, attribute in node.attributes.items():
            if name == "epsilon":
                node.attributes[name] = ir.AttrFloat32(name, spec.rms_norm_eps)
            elif name == "value_ints":
                node.attributes[name] = ir.AttrInt64s(name, [sizes.get(each, each) for each in attribute.value])
            elif name == "value" and attribute.value.shape.rank():
                numbers = [sizes.get(each, each) for each in attribute.value.numpy().tolist()]
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(numbers, attribute.value.dtype))
        if node.op_type == "HybridAttention":
            node.attributes["num_heads"] = ir.AttrInt64("num_heads", spec.num_attention_heads)
            node.attributes["num_key_value_heads"] = ir.AttrInt64("num_key_value_heads", spec.num_key_value_heads)
            node.attributes["scale"] = ir.AttrFloat32("scale", spec.head_dim**-0.5)
            node.attributes["window"] = ir.AttrInt64("window", next(attentions).window)
        for value in node.outputs:
            _resize(value, sizes)
    for value in (*graph.graph.inputs, *graph.graph.initializers.values()):
        _resize(value, sizes)
    return _relaid(graph, spec, layout)


def _sizes(spec: ModelSpec) -> tuple[int, ...]:
    """All that a weight's or a value's dimension can be, in one order for every model."""
    heads, kv_heads, head_dim = spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim
    return (
        spec.vocab_size,
        spec.hidden_size,
        spec.intermediate_size,
        2 * spec.intermediate_size,
        heads * head_dim,
        (heads + 2 * kv_heads) * head_dim,
        head_dim,
        spec.head_size,
    )


def _resize(value: ir.Value, sizes: dict[int, int]) -> None:
    if value.shape is not None:
        value.shape = ir.Shape([sizes.get(each, each) if isinstance(each, int) else each for each in value.shape])


def _relaid(graph: ir.Model, spec: ModelSpec, layout: CacheLayout) -> ir.Model:
    """A graph with other caches: their shapes, and those of the rotary tables, are all that differs."""
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        if value.name.endswith((".key", ".value")):
            _, layer, _ = value.name.rsplit(".", 2)
            rows = layout.layers[int(layer)].rows
            value.shape = ir.Shape((value.shape[0], spec.num_key_value_heads, rows, spec.head_dim))
    for name in ("body.cos", "body.sin"):
        graph.graph.initializers[name].shape = ir.Shape((layout.max_length, spec.head_dim // 2))
    return graph
