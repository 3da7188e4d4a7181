"""Graphs as files, and beside them one file of their weights, which are written after them to where they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from exaone_export.artifact.manifest import Manifest
from exaone_export.files.durable import write_synced
from exaone_export.graphs.tensor_rows import TensorRows
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
    graphs: Mapping[str, ir.Model],
    manifest: Manifest,
    folder: Path,
    journal: Journal,
    progress: Progress | None = None,
) -> None:
    """Write the graphs, and then every weight that an interrupted run has not written.

    Args:
        graphs: By their files' names, graphs whose weights are `UnreadTensor`; they are of no use afterwards. A tensor
            that is several graphs' is written once.
        manifest: What the graphs are.
        folder: Where all files are written.
        journal: Of the folder; says what is there, and learns the rest.
        progress: Told how many bytes are written.

    Raises:
        OSError: The disk refused.
        CheckpointError: A weight cannot be read.
    """
    weights, length = _lay_out(graphs, folder)
    # What an interrupted run has written is of use only to the graphs that it wrote.
    if journal.manifest != manifest or _places(_load(folder, graphs)) != _places(graphs):
        journal.forget()
        _write_graphs(graphs, length, folder)
        journal.begin(manifest)
    _write_weights(weights, folder, journal, progress)


def _lay_out(graphs: Mapping[str, ir.Model], folder: Path) -> tuple[list[Weight], int]:
    """Decide where each weight lies in the data file, and how long that is; the graphs then say so."""
    users: dict[str, list[ir.Value]] = {}
    unread: dict[str, UnreadTensor] = {}
    keys: dict[int, str] = {}
    for file, graph in graphs.items():
        for value in graph.graph.initializers.values():
            tensor = value.const_value.whole if isinstance(value.const_value, TensorRows) else value.const_value
            if isinstance(tensor, UnreadTensor) and tensor.nbytes > INLINE_BYTES:
                key = keys.setdefault(id(tensor), _key(file, str(tensor.name)))
                unread[key] = tensor
                users.setdefault(key, []).append(value)
    places, length = data_file.lay_out({key: tensor.nbytes for key, tensor in unread.items()})
    for key, values in users.items():
        for value in values:
            part = value.const_value
            offset, size = part.byte_range if isinstance(part, TensorRows) else (0, places[key].length)
            assert value.dtype is not None and isinstance(value.shape, ir.Shape)
            value.const_value = ir.ExternalTensor(
                DATA_FILE,
                places[key].offset + offset,
                size,
                value.dtype,
                shape=value.shape,
                name=str(value.name),
                base_dir=folder,
            )
    weights = [Weight(key, places[key], tensor.torch_dtype, tensor.reader) for key, tensor in unread.items()]
    return weights, length


def _key(file: str, name: str) -> str:
    """What a weight is called in the journal: graphs may have different ones of one name."""
    return name if file == MODEL_FILE else f"{file}:{name}"


def _load(folder: Path, files: Iterable[str]) -> dict[str, ir.Model]:
    """Those of the graphs that are in the folder."""
    return {file: ir.load(folder / file) for file in files if (folder / file).is_file()}


def _places(graphs: Mapping[str, ir.Model]) -> dict[tuple[str, str], Place]:
    """Where graphs say that their weights lie, by the graph's file and the weight's name."""
    return {
        (file, name): Place(tensor.offset or 0, tensor.length or 0)
        for file, graph in graphs.items()
        for name, value in graph.graph.initializers.items()
        if isinstance(tensor := value.const_value, ir.ExternalTensor)
    }


def _write_graphs(graphs: Mapping[str, ir.Model], length: int, folder: Path) -> None:
    """Write the graphs with the small weights, and the data file with nothing in it; all are new, and synced."""
    for graph in graphs.values():
        for value in graph.graph.initializers.values():
            if isinstance(value.const_value, UnreadTensor):
                value.const_value.read()
    for name in (*graphs, DATA_FILE):
        (folder / name).unlink(missing_ok=True)
    for name, graph in graphs.items():
        write_synced(folder / name, ir.to_proto(graph).SerializeToString(deterministic=True))
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
