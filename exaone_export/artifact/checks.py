"""Checks of an artifact's files beyond their hashes: whoever writes a manifest can also write matching hashes."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..errors import ArtifactError
from ..files.containment import in_hub_cache, status_of
from ..files.digest import hash_of
from ..files.names import is_plain_name
from ..model.spec import ModelSpec
from ..targets.cache_layout import MAX_LENGTH, CacheLayout
from ..targets.engine import EngineInfo
from ..targets.precision import PRECISIONS
from ..targets.target import TARGETS
from . import sidecars
from .manifest import MANIFEST_NAME, Manifest
from .onnx_references import MAX_GRAPH_BYTES, MalformedGraphError, read_references

__all__ = [
    "ENGINE_NAME",
    "MODEL_NAME",
    "again",
    "check_graph",
    "check_hash",
    "check_kind_and_size",
    "check_names",
    "check_sidecars",
    "check_sizes",
    "most_bytes",
    "read_engine",
]

MODEL_NAME = "model.onnx"
ENGINE_NAME = "model.engine"

_AGAIN = "export the model again."
_LAYERS = "layers.json"  # A list of every layer of an engine, which nothing reads.
# "exaone" is the operator that travels with its own body; an unknown domain is a library's.
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft", "exaone"})
# They load another file, run Python, or may never end.
_OPERATORS = frozenset({"EPContext", "PyOp", "PythonOp", "ATen", "Loop", "Scan", "Optional", "SequenceMap"})


def check_sizes(folder: Path, manifest: Manifest, spec: ModelSpec) -> None:
    """Raise unless the caches are those of the model: a runtime allocates what the manifest says.

    Raises:
        ArtifactError: They are not, or the target or the precision is unknown.
    """
    for key, found, known in (("target", manifest.target, TARGETS), ("precision", manifest.precision, PRECISIONS)):
        if found not in known:
            raise ArtifactError(
                f"{folder / MANIFEST_NAME} has the {key} {found!r:.60}, and this program knows {', '.join(known)}; "
                f"{_AGAIN}"
            )
    layout = CacheLayout.from_dict(manifest.cache)
    if (
        not 2 <= layout.max_length <= min(spec.max_position_embeddings, MAX_LENGTH)
        or [layer.window for layer in layout.layers] != [layer.window for layer in spec.layers]
        or any(layer.rows > layout.max_length for layer in layout.layers)
    ):
        raise ArtifactError(f"{folder / MANIFEST_NAME} describes caches that are not its model's; {_AGAIN}")


def read_engine(folder: Path, manifest: Manifest) -> EngineInfo | None:
    """The engine's record in the manifest; there must be one for an engine, and none for a graph.

    Raises:
        ArtifactError: The manifest lists something else.
    """
    models = manifest.files.keys() & {MODEL_NAME, ENGINE_NAME}
    if not models:
        raise ArtifactError(f"{folder / MANIFEST_NAME} lists neither {MODEL_NAME} nor {ENGINE_NAME}; {_AGAIN}")
    if models != {MODEL_NAME if manifest.engine is None else ENGINE_NAME}:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} lists {' and '.join(sorted(models))}, and must list {MODEL_NAME} alone, or "
            f"{ENGINE_NAME} alone with what it was built for; {_AGAIN}"
        )
    return None if manifest.engine is None else EngineInfo.from_dict(manifest.engine)


def check_names(folder: Path, manifest: Manifest) -> None:
    """Raise if the folder holds a file that is read beside a model by its name and that the manifest does not list.

    Raises:
        ArtifactError: There is one: it has no hash, and would be read like the others.
    """
    try:
        unlisted = [name for name in sidecars.names_read(folder) if name not in manifest.files]
    except OSError as cause:
        raise ArtifactError(f"{folder} cannot be listed ({cause.strerror}); check its permissions.") from cause
    if unlisted:
        raise ArtifactError(
            f"{folder} holds {unlisted[0]!r:.80}, which the manifest does not list and which would be read with the "
            f"model; remove it."
        )


def check_kind_and_size(path: Path, size: int) -> os.stat_result:
    """Raise unless a file is regular, of the expected size, within the limit for its name, and not a hard link.

    Returns:
        The status that was checked.

    Raises:
        ArtifactError: It is not.
    """
    try:
        status = status_of(path)
    except OSError as cause:
        raise ArtifactError(
            f"{path} cannot be found ({cause.strerror}), but the manifest lists it; {again(path)}"
        ) from cause
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path} is a link or a special file; copy the artifact's files into one folder.")
    if status.st_nlink > 1:
        raise ArtifactError(
            f"{path} is a hard link that shares its content with another file; copy the artifact's files, not their "
            f"links."
        )
    if size > most_bytes(path.name):
        raise ArtifactError(f"{path} has {size} bytes, and at most {most_bytes(path.name)} are read; {_AGAIN}")
    if status.st_size != size:
        raise ArtifactError(f"{path} has {status.st_size} bytes, and the manifest lists {size}; {again(path)}")
    return status


def most_bytes(name: str) -> float:
    """The most bytes that a file of this name may have; infinite for graphs, engines and weights."""
    return math.inf if name.startswith("model.") or name == _LAYERS else sidecars.max_bytes_of(name)


def again(path: Path) -> str:
    """What to do about a damaged file, as the end of a sentence."""
    if not in_hub_cache(path.parent):
        return _AGAIN
    name = path.parent.resolve().parent.parent.name
    return f"run: hf cache rm {'/'.join(name.replace('models--', 'model--', 1).split('--'))}, and open it again."


def check_sidecars(folder: Path, manifest: Manifest) -> None:
    """Raise unless config, tokenizer and chat template are data.

    Raises:
        ArtifactError: One is not; see `exaone_export.artifact.sidecars.check_content`.
    """
    for name in manifest.files:
        sidecars.check_content(folder / name, ArtifactError)


def check_graph(path: Path, manifest: Manifest, *, is_read: bool = False) -> bool:
    """Raise unless a graph's tensors lie in files of the artifact, within their bounds, and its nodes only compute.

    Metadata of the model is refused as well: with ``ORT_LOAD_CONFIG_FROM_MODEL=1`` in the environment, ONNX Runtime
    takes settings of the session from it.

    Args:
        path: The graph.
        manifest: Its artifact's.
        is_read: Whether a program will read the graph. Otherwise a file that is not ONNX passes.

    Returns:
        Whether the file is ONNX.

    Raises:
        ArtifactError: They do not.
    """
    size = manifest.files[path.name]["size"]
    if size > MAX_GRAPH_BYTES:
        raise ArtifactError(f"{path} has {size} bytes, and at most {MAX_GRAPH_BYTES} of a graph are read; {_AGAIN}")
    try:
        found = read_references(path.read_bytes())
    except OSError as cause:
        raise ArtifactError(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause
    except MalformedGraphError as cause:
        if not is_read:
            return False
        raise ArtifactError(f"{path} is not an ONNX graph that an export writes: it {cause}; {_AGAIN}") from cause
    for tensor in found.tensors:
        record = manifest.files.get(tensor.location)
        if record is None or tensor.location == path.name or not is_plain_name(tensor.location):
            raise ArtifactError(
                f"{path} keeps a tensor in {tensor.location!r:.80}, which is not a file of the artifact; {_AGAIN}"
            )
        if tensor.offset is None or tensor.length is None or tensor.offset + tensor.length > record["size"]:
            raise ArtifactError(f"{path} keeps a tensor beyond the end of {tensor.location}; {_AGAIN}")
    if found.metadata:  # ONNX Runtime may take a session's settings from it, those of its profiler among them.
        raise ArtifactError(f"{path} has the metadata {min(found.metadata)!r:.80}, which no export writes; {_AGAIN}")
    for domain, operator in sorted(found.operators):
        if domain not in _DOMAINS or operator in _OPERATORS:
            name = f"{domain}::{operator}" if domain else operator
            raise ArtifactError(f"{path} has a node of {name!r:.80}, which no export writes; {_AGAIN}")
    return True


def check_hash(path: Path, sha256: str, check: Callable[[], None] = lambda: None) -> None:
    """Raise unless a file has the hash that the manifest lists.

    Args:
        path: The file.
        sha256: The hash.
        check: Is called now and then, and may end it.

    Raises:
        ArtifactError: It has not, or cannot be read.
    """
    try:
        found = hash_of(path, check)
    except OSError as cause:
        raise ArtifactError(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause
    if found != sha256:
        raise ArtifactError(f"{path} is not the file that was exported (its sha256 differs); {again(path)}")
