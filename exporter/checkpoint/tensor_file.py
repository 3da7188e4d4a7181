"""Safetensors files larger than memory: written one tensor at a time, read through a mapping.

The format is that of https://github.com/huggingface/safetensors: eight bytes of header length, a JSON header, the data.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import torch

from exaone_export.errors import CalibrationError
from exaone_export.files.durable import NO_ROOM, replacing
from exaone_export.model.dtypes import DTYPES

from .safetensors_file import SafetensorsHeader

__all__ = ["TORCH_TYPES", "as_bytes", "map_tensors", "read_header", "write_tensors"]

TORCH_TYPES: dict[str, torch.dtype] = {
    str(DTYPES[name].safetensors): getattr(torch, name)
    for name in ("float32", "bfloat16", "float16", "int8", "float8_e4m3fn")
}
"""The types that such a file may hold, as the format calls them."""

_NAMES = {dtype: name for name, dtype in TORCH_TYPES.items()}
_HASHED_AT_ONCE = 16 << 20


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], staged: Path | None = None
) -> str:
    """Write a file elsewhere, sync it and rename it: it appears whole or not at all.

    Tensors lie in the order of the mapping, those of wider types first, so that each is aligned to its own items. They
    may be views of mapped files: each is read when its turn comes.

    Args:
        path: The destination.
        tensors: By name, of the types of `TORCH_TYPES`.
        metadata: Texts beside them.
        staged: Where it is written first, on the same file system; beside its destination by default.

    Returns:
        The file's sha256.

    Raises:
        CalibrationError: The file cannot be written.
    """
    names = sorted(tensors, key=lambda name: -tensors[name].element_size())
    table: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with _written_whole(path, staged) as file:
        pieces: Iterator[bytes | memoryview] = chain(
            (len(text).to_bytes(8, "little"), text), (as_bytes(tensors[name]) for name in names)
        )
        for data in pieces:
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def read_header(path: Path, fix: str) -> SafetensorsHeader:
    """Read and check a header whose tensors are of `TORCH_TYPES`.

    Args:
        path: The file.
        fix: What the user is told to do if it is damaged.

    Raises:
        CalibrationError: As `SafetensorsHeader.read`.
    """
    return SafetensorsHeader.read(path, dtypes=tuple(TORCH_TYPES), error=CalibrationError, fix=fix)


def map_tensors(path: Path, header: SafetensorsHeader, *, hashed: bool = True) -> tuple[dict[str, torch.Tensor], str]:
    """Map a file whose header has been checked; of its tensors, only what is used is read.

    Args:
        path: The file.
        header: Its header.
        hashed: Whether the sha256 is wanted, which reads the file once.

    Returns:
        Tensors by name, and the file's sha256. A change of a tensor does not reach the file.

    Raises:
        CalibrationError: The file is no longer the one whose header was read.
    """
    try:
        with path.open("rb") as file:
            header.check_unchanged(file.fileno(), CalibrationError)
            # A private copy: torch would warn of a buffer that cannot be written.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as cause:
        raise CalibrationError(f"{path} cannot be read ({cause.strerror}); run the command again.") from cause
    digest = hashlib.sha256()
    for start in range(0, len(data) if hashed else 0, _HASHED_AT_ONCE):
        digest.update(data[start : start + _HASHED_AT_ONCE])
    tensors = {}
    for info in header.tensors.values():
        dtype, count = TORCH_TYPES[info.dtype], torch.Size(info.shape).numel()
        flat = torch.frombuffer(data, dtype=dtype, count=count, offset=info.offset) if count else torch.empty(0)
        tensors[info.name] = flat.to(dtype).reshape(info.shape)
    return tensors, digest.hexdigest()


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes in row-major order; of a contiguous tensor those in memory, not a copy."""
    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


@contextmanager
def _written_whole(path: Path, staged: Path | None) -> Iterator[BinaryIO]:
    try:
        with replacing(path, staged=staged) as file:
            yield file
    except OSError as cause:
        if cause.errno in NO_ROOM:
            raise CalibrationError(
                f"{path.parent} has no room for {path.name}; free some and give the same command again, or choose "
                f"another path."
            ) from cause
        raise CalibrationError(f"{path} cannot be written ({cause.strerror}); choose another path.") from cause
