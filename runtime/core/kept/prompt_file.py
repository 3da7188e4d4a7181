"""The file of a kept prompt: its tokens, and keys and values as the caches hold them, in the safetensors format.

https://github.com/huggingface/safetensors: eight bytes of header length, a JSON header, the data. What the header says
beside the artifact, the row's state and a hash of it all follows from these and from the caches' geometry, so that a
header is either exactly what is expected, or refused before anything is allocated.

Legend: H num_key_value_heads, n rows that are held, D head_dim.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from exaone_export.errors import KeptPromptError
from exaone_export.files import strict_json
from exaone_export.files.durable import NO_ROOM, replacing
from exaone_export.files.opening import open_itself
from exaone_export.files.records import Record, Sha256, read_record
from exaone_export.model.dtypes import DTYPES

from ..buffers import BufferPool, CacheGeometry
from ..row_caches import RowCaches
from .row_state import RowState

__all__ = ["load_kept", "save_kept"]

_FORMAT, _VERSION = "exaone-export kept prompt", "1"
_METADATA = "__metadata__"
_LENGTH_BYTES, _MOST_HEADER_BYTES = 8, 4 << 20
_AGAIN = "remove it, and save the prompt again"


class _Metadata(Record, frozen=True):
    """What the header says in texts.

    Attributes:
        format: `_FORMAT`.
        version: `_VERSION`.
        artifact: `exaone_export.artifact.reader.Artifact.identity`.
        state: `RowState` as JSON.
        sha256: Of the whole file with 64 zeros here.
    """

    format: str
    version: str
    artifact: str
    state: str
    sha256: Sha256 = "0" * 64


def save_kept(
    path: str | Path, tokens: Sequence[int], rows: RowCaches, artifact: str, check: Callable[[], None]
) -> None:
    """Write what one row holds to a file that only its owner may read, whole or not at all.

    Args:
        path: The file; one that exists is replaced.
        tokens: Those that the row holds, at least one.
        rows: The caches.
        artifact: Whose.
        check: Called now and then; what it raises ends the writing.

    Raises:
        KeptPromptError: The file cannot be written.
    """
    state = rows.state()
    metadata = _Metadata(_FORMAT, _VERSION, artifact, json.dumps(msgspec.to_builtins(state)))
    hashed = hashlib.sha256(_header(metadata, state, rows.geometry))
    for view in _views(_held(tokens, rows), check):
        hashed.update(view)
    try:
        with replacing(path, mode=0o600) as file:
            file.write(_header(msgspec.structs.replace(metadata, sha256=hashed.hexdigest()), state, rows.geometry))
            for view in _views(_held(tokens, rows), check):
                file.write(view)
    except (OSError, ValueError) as cause:
        fix = "free space there" if getattr(cause, "errno", None) in NO_ROOM else "choose another path"
        raise KeptPromptError(f"{path} cannot be written ({_reason(cause)}); {fix}.") from cause


def load_kept(
    path: str | Path, pool: BufferPool, vocab_size: int, artifact: str, check: Callable[[], None]
) -> tuple[list[int], RowCaches]:
    """Read what `save_kept` has written, straight into new caches.

    Args:
        path: The file, not a link.
        pool: Where buffers come from.
        vocab_size: Of the tokens.
        artifact: Whose it must be.
        check: Called now and then; what it raises ends the reading.

    Returns:
        The tokens, and the caches of one row that hold them.

    Raises:
        KeptPromptError: The file cannot be read, is damaged, or was written with another artifact.
    """
    try:
        with os.fdopen(open_itself(path), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeptPromptError(f"{path} is not a regular file; give a file that save_prompt has written.")
            metadata, state = _read_header(file, path, status.st_size, pool.geometry, artifact)
            rows = RowCaches(pool)
            rows.restore(state)
            tokens_N = np.empty(state.length, np.int32)
            hashed = hashlib.sha256(_header(msgspec.structs.replace(metadata, sha256="0" * 64), state, pool.geometry))
            for view in _filled(tokens_N, rows, check):
                if file.readinto(view) != len(view):
                    raise _damaged(path, "it ends too early")
                hashed.update(view)
    except KeptPromptError:
        raise
    except (OSError, ValueError) as cause:
        if Path(path).is_symlink():
            raise KeptPromptError(f"{path} is a link; give the path of the file itself.") from cause
        raise KeptPromptError(
            f"{path} cannot be read ({_reason(cause)}); check the path and its permissions."
        ) from cause
    if hashed.hexdigest() != metadata.sha256:
        raise _damaged(path, "its sha256 differs")
    if tokens_N.min() < 0 or tokens_N.max() >= vocab_size:
        raise _damaged(path, f"it holds a token outside of the vocabulary, which is 0 to {vocab_size - 1}")
    return tokens_N.tolist(), rows


def _read_header(
    file: BinaryIO, path: str | Path, size: int, geometry: CacheGeometry, artifact: str
) -> tuple[_Metadata, RowState]:
    """Read a header that is exactly as expected, in a file of the size that goes with it."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 0 < length <= min(_MOST_HEADER_BYTES, size - _LENGTH_BYTES):
        raise _damaged(path, "it does not begin with a header")
    found = file.read(length)
    content = _parse(found, path).get(_METADATA, {})
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise _damaged(path, "its header does not say that it is one")
    if content.get("version") != _VERSION:
        raise KeptPromptError(
            f"{path} is of version {content.get('version')!r:.40}, and this program reads {_VERSION}; {_AGAIN}."
        )
    metadata = read_record(content, _Metadata, name=str(path), fix=_AGAIN, error=KeptPromptError)
    if metadata.artifact != artifact:
        raise KeptPromptError(
            f"{path} was saved with another artifact, whose caches mean something else; open that one, or save the "
            f"prompt again with this one."
        )
    written = _parse(metadata.state.encode("utf-8", "replace"), path)
    state = read_record(written, RowState, name=str(path), fix=_AGAIN, error=KeptPromptError)
    if not state.fits(geometry.layout):
        raise _damaged(path, "it is longer than the artifact's caches")
    header = _header(metadata, state, geometry)
    end = sum(math.prod(shape) * DTYPES[dtype].bits // 8 for dtype, shape in _arrays(state, geometry).values())
    if header[_LENGTH_BYTES:] != found or size != len(header) + end:
        raise _damaged(path, "its size or its header is not what its prompt needs")
    return metadata, state


def _header(metadata: _Metadata, state: RowState, geometry: CacheGeometry) -> bytes:
    """The header, its length in front."""
    entries: dict[str, Any] = {_METADATA: msgspec.structs.asdict(metadata)}
    start = 0
    for name, (dtype, shape) in _arrays(state, geometry).items():
        end = start + math.prod(shape) * DTYPES[dtype].bits // 8
        entries[name] = {"dtype": DTYPES[dtype].safetensors, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _arrays(state: RowState, geometry: CacheGeometry) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of every array, by name, in the file's order."""
    heads, head_dim = geometry.num_key_value_heads, geometry.head_dim
    rows = {name: (geometry.dtype, [heads, n, head_dim]) for name, n in state.rows(geometry.layout).items()}
    return {"tokens": ("int32", [state.length]), **rows}


def _held(tokens: Sequence[int], rows: RowCaches) -> Iterator[np.ndarray]:
    """What is written, an array at a time on the host: of a GPU's caches, there may be no room there for all."""
    yield np.array(tokens, np.int32)
    yield from map(rows.geometry.memory.on_host, rows.contents())


def _views(arrays: Iterable[np.ndarray], check: Callable[[], None]) -> Iterator[memoryview]:
    """The bytes of arrays in order, to read or to write; rows of one head lie side by side."""
    for array in arrays:
        for part in array if array.ndim == 3 else (array,):
            check()
            yield part.data.cast("B")


def _filled(tokens_N: np.ndarray, rows: RowCaches, check: Callable[[], None]) -> Iterator[memoryview]:
    """As `_views`, to be written one after the other, of the tokens and of what the caches are to hold."""
    memory = rows.geometry.memory
    yield from _views([tokens_N], check)
    for array in rows.contents():
        bits = memory.on_host(array)
        yield from _views([bits], check)
        memory.write(array, bits)


def _parse(data: bytes, path: str | Path) -> dict[str, Any]:
    try:
        return strict_json.parse_object(data, name="its header", error=KeptPromptError)
    except KeptPromptError as cause:
        raise _damaged(path, "its header is not JSON") from cause


def _damaged(path: str | Path, why: str) -> KeptPromptError:
    return KeptPromptError(f"{path} is not a kept prompt, or is damaged ({why}); {_AGAIN}.")


def _reason(cause: Exception) -> str:
    return getattr(cause, "strerror", None) or str(cause)
