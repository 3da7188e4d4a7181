"""A graph as two files: ``model.onnx``, and beside it the weights, which are written after it to where it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from exaone_export.files.durable import write_synced

from ..reference.weights import WeightReader
from . import data_file
from .journal import Journal, Written

__all__ = ["DATA_FILE", "MODEL_FILE", "write_graph", "write_weights"]

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"

# Smaller tensors lie in the graph itself.
_MIN_EXTERNAL_BYTES = 1024


def write_graph(graph: ir.Model, folder: Path) -> None:
    """Write the graph, and the file of its weights with nothing in it; both are synced.

    Args:
        graph: A graph whose initializers have data, read when they are used; it is of no use afterwards.
        folder: Where neither file is.

    Raises:
        OSError: The disk refused.
        CheckpointError: A small weight, which lies in the graph, cannot be read.
    """
    lazy = {
        str(value.name): (value, value.const_value)
        for value in graph.graph.initializers.values()
        if isinstance(value.const_value, ir.LazyTensor) and value.const_value.nbytes > _MIN_EXTERNAL_BYTES
    }
    places, length = data_file.lay_out({name: tensor.nbytes for name, (_, tensor) in lazy.items()})
    for name, (value, tensor) in lazy.items():
        place = places[name]
        value.const_value = ir.ExternalTensor(
            DATA_FILE,
            place.offset,
            place.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape),
            name=name,
            base_dir=folder,
        )
    write_synced(folder / MODEL_FILE, ir.to_proto(graph).SerializeToString(deterministic=True))
    data_file.create(folder / DATA_FILE, length)


def write_weights(
    folder: Path, journal: Journal, readers: Mapping[str, WeightReader], report: Callable[[str, int, int], None]
) -> None:
    """Write the weights that are not written yet to where the graph says.

    Args:
        folder: Where `write_graph` has written.
        journal: Knows what is written already, and is told of the rest.
        readers: By initializer name, what makes it.
        report: Called with ``"write"``, the bytes that are written and all of them.

    Raises:
        OSError: The disk refused.
        CheckpointError: A weight cannot be read.
    """
    found = ir.load(folder / MODEL_FILE).graph.initializers.values()
    tensors = [value.const_value for value in found if isinstance(value.const_value, ir.ExternalTensor)]
    places = {str(tensor.name): data_file.Place(tensor.offset or 0, tensor.length or 0) for tensor in tensors}
    if journal.written:
        data_file.clear_gaps(folder / DATA_FILE, places.values())
    weights = [
        data_file.Weight(
            str(tensor.name),
            places[str(tensor.name)],
            _torch_dtype(tensor.dtype),
            readers[str(tensor.name)],
        )
        for tensor in tensors
        if tensor.name not in journal.written
    ]
    total = sum(place.length for place in places.values())
    done = total - sum(weight.place.length for weight in weights)

    def count(more: int) -> None:
        nonlocal done
        done += more
        report("write", done, total)

    def finished(digests: Mapping[str, str]) -> None:
        journal.add({name: Written(places[name].offset, places[name].length, sha) for name, sha in digests.items()})

    count(0)
    data_file.write(folder / DATA_FILE, weights, finished=finished, report=count)


def _torch_dtype(dtype: ir.DataType) -> torch.dtype:
    # torch has no int4: two values come in a byte.
    return torch.int8 if dtype == ir.DataType.INT4 else tensor_adapters.to_torch_dtype(dtype)
