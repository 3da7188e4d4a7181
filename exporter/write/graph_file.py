"""A graph as two files: ``model.onnx``, and beside it the weights, which are written after it to where it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from exaone_export.artifact.manifest import Manifest
from exaone_export.files.durable import write_synced
from exaone_export.planning.stored_tensors import INLINE_BYTES
from exaone_export.progress import Progress, Step

from . import data_file
from .binding import UnreadTensor
from .data_file import Place, Weight
from .journal import Journal, Written

__all__ = ["DATA_FILE", "MODEL_FILE", "write_model"]

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"


def write_model(
    graph: ir.Model, manifest: Manifest, folder: Path, journal: Journal, progress: Progress | None = None
) -> None:
    """Write the graph, and then every weight that an interrupted run has not written.

    Args:
        graph: A graph whose weights are `UnreadTensor`; it is of no use afterwards.
        manifest: What the graph is.
        folder: Where both files are written.
        journal: Of the folder; says what is there, and learns the rest.
        progress: Told how many bytes are written.

    Raises:
        OSError: The disk refused.
        CheckpointError: A weight cannot be read.
    """
    weights, length = _lay_out(graph, folder)
    # What an interrupted run has written is of use only to the graph that it wrote.
    if journal.manifest != manifest or _places_in(folder) != {weight.name: weight.place for weight in weights}:
        journal.forget()
        _write_graph(graph, length, folder)
        journal.begin(manifest)
    _write_weights(weights, folder, journal, progress)


def _lay_out(graph: ir.Model, folder: Path) -> tuple[list[Weight], int]:
    """Decide where each weight lies in the data file, and how long that is; the graph then says so."""
    unread = {
        str(value.name): (value, value.const_value)
        for value in graph.graph.initializers.values()
        if isinstance(value.const_value, UnreadTensor) and value.const_value.nbytes > INLINE_BYTES
    }
    places, length = data_file.lay_out({name: tensor.nbytes for name, (_, tensor) in unread.items()})
    for name, (value, tensor) in unread.items():
        value.const_value = ir.ExternalTensor(
            DATA_FILE,
            places[name].offset,
            places[name].length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape),
            name=name,
            base_dir=folder,
        )
    weights = [Weight(name, places[name], tensor.torch_dtype, tensor.reader) for name, (_, tensor) in unread.items()]
    return weights, length


def _places_in(folder: Path) -> dict[str, Place]:
    """Where the graph that is in the folder says that its weights lie."""
    found = (value.const_value for value in ir.load(folder / MODEL_FILE).graph.initializers.values())
    external = (tensor for tensor in found if isinstance(tensor, ir.ExternalTensor))
    return {str(tensor.name): Place(tensor.offset or 0, tensor.length or 0) for tensor in external}


def _write_graph(graph: ir.Model, length: int, folder: Path) -> None:
    """Write the graph with the small weights, and the data file with nothing in it; both are new, and synced."""
    for name in (MODEL_FILE, DATA_FILE):
        (folder / name).unlink(missing_ok=True)
    write_synced(folder / MODEL_FILE, ir.to_proto(graph).SerializeToString(deterministic=True))
    data_file.create(folder / DATA_FILE, length)


def _write_weights(weights: Sequence[Weight], folder: Path, journal: Journal, progress: Progress | None) -> None:
    places = {weight.name: weight.place for weight in weights}
    if journal.written:
        data_file.clear_gaps(folder / DATA_FILE, places.values())

    def finished(digests: Mapping[str, str]) -> None:
        journal.add({name: Written(places[name].offset, places[name].length, sha) for name, sha in digests.items()})

    left = [weight for weight in weights if weight.name not in journal.written]
    total, to_do = (sum(weight.place.length for weight in some) for some in (weights, left))
    step = Step(progress, "write", total, done=total - to_do)
    step(0)
    data_file.write(folder / DATA_FILE, left, finished=finished, report=step)
