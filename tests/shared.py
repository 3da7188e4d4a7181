"""What a run makes once for all of its workers: files and folders, and traces of the reference model."""

from __future__ import annotations

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
from exaone_export.model.spec import ModelSpec
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


@contextmanager
def traces_made_once(share: Callable[..., Path]) -> Iterator[None]:
    """Exports of one architecture and compute type are traced once a run, which is most of what a small one takes."""

    def trace(spec: ModelSpec, layout: CacheLayout, dtype: torch.dtype) -> ir.Model:
        def make(path: Path) -> None:
            path.write_bytes(as_bytes(tracing.trace(spec, layout, dtype)))

        return relaid(_load(share((spec, dtype, kinds_of(spec, layout)), make)), spec, layout)

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
    return ir.to_proto(traced).SerializeToString(deterministic=True)


def _load(path: Path) -> ir.Model:
    traced = ir.load(path)
    for value in traced.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    return traced


def relaid(traced: ir.Model, spec: ModelSpec, layout: CacheLayout) -> ir.Model:
    """A traced graph with other caches: their rows, and those of the rotary tables, are all that differs."""
    kinds = kinds_of(spec, layout)
    caches = [
        value for value in (*traced.graph.inputs, *traced.graph.outputs) if value.name.endswith((".key", ".value"))
    ]
    for value in caches:
        _, kind, _ = value.name.rsplit(".", 2)
        batch, heads, _, head_dim = value.shape
        value.shape = ir.Shape((batch, heads, layout.layers[kinds.index(int(kind))].rows, head_dim))
    for name in ("body.cos", "body.sin"):
        table = traced.graph.initializers[name]
        table.shape = ir.Shape((layout.max_length, table.shape[1]))
    return traced
