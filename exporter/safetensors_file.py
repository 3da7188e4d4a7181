"""The header of one safetensors file, checked before a byte of a weight is read.

The format is eight bytes of header length, a JSON header, then the data: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from exaone_export import strict_json
from exaone_export.errors import CheckpointError

__all__ = ["ITEM_SIZES", "SafetensorsHeader", "TensorInfo"]

ITEM_SIZES = {"F32": 4, "BF16": 2, "F16": 2}

# The format allows 100 MB. This architecture needs 0.2 MB for 64 layers, and a parsed header takes ten times its text.
MAX_HEADER_BYTES = 16 << 20

_LENGTH_BYTES = 8
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Attributes:
        name: Its name in the checkpoint.
        dtype: ``F32``, ``BF16`` or ``F16``.
        shape: Its dimensions.
        shard: The file that holds it.
        offset: Where its data starts in that file, in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file says it holds, proven to be what its size can hold.

    Attributes:
        path: The file.
        raw: The header as it lies in the file, its length included.
        tensors: By name.
        file_size: Bytes of the whole file.
    """

    path: Path
    raw: bytes
    tensors: dict[str, TensorInfo]
    file_size: int

    @classmethod
    def read(cls, path: Path) -> SafetensorsHeader:
        """Read and check the header.

        Raises:
            CheckpointError: The file is missing, is not a safetensors file, holds a type that cannot be exported, or is
                not exactly as long as its header says: a download that was cut, or a header that lies.
        """
        try:
            size = _regular_size(path)
            with path.open("rb") as file:
                raw = _read_raw(file, path, size)
        except OSError as cause:
            raise CheckpointError(
                f"{path} cannot be read ({cause.strerror}); download the checkpoint again."
            ) from cause
        header = strict_json.parse_object(raw[_LENGTH_BYTES:], name=f"the header of {path.name}", error=CheckpointError)
        header.pop("__metadata__", None)
        tensors = {name: _tensor(name, value, path, len(raw)) for name, value in header.items()}
        _check_layout(path, list(tensors.values()), len(raw), size)
        return cls(path, raw, tensors, size)


def _regular_size(path: Path) -> int:
    status = path.stat()  # Follows links: the Hugging Face cache is made of them.
    if not stat.S_ISREG(status.st_mode):  # Opening a FIFO would wait for ever.
        raise CheckpointError(f"{path} is not a regular file; download the checkpoint again.")
    return status.st_size


def _read_raw(file: BinaryIO, path: Path, size: int) -> bytes:
    prefix = file.read(_LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise CheckpointError(f"{path} ends within its header; download the checkpoint again.")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} has a header of {length} bytes, and at most {MAX_HEADER_BYTES} are read; "
            f"download the checkpoint again."
        )
    return prefix + file.read(length)


def _tensor(name: str, value: Any, path: Path, data_start: int) -> TensorInfo:
    dtype, shape, offsets = (
        value.get(key) if isinstance(value, dict) else None for key in ("dtype", "shape", "data_offsets")
    )
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS or not _is_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(
            f"the header of {path.name} does not describe {name[:80]!r}; download the checkpoint again."
        )
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise CheckpointError(
            f"{name[:80]} in {path.name} is {str(dtype)[:20]}, and only {', '.join(ITEM_SIZES)} can be exported; use "
            f"the unquantized checkpoint."
        )
    tensor = TensorInfo(name, dtype, tuple(shape), path, data_start + offsets[0])
    if offsets[1] - offsets[0] != tensor.num_bytes:
        raise CheckpointError(
            f"{name[:80]} in {path.name} has {offsets[1] - offsets[0]} bytes where its shape needs {tensor.num_bytes}; "
            f"download the checkpoint again."
        )
    return tensor


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_layout(path: Path, tensors: list[TensorInfo], data_start: int, file_size: int) -> None:
    """Raise unless the tensors tile the file: a gap could hide data, an overlap or a short file would lie."""
    end = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.num_bytes)):
        if tensor.offset != end:
            raise CheckpointError(
                f"{tensor.name[:80]} in {path.name} starts at byte {tensor.offset}, not where the one before it ends "
                f"({end}); download the checkpoint again."
            )
        end += tensor.num_bytes
    if end != file_size:
        raise CheckpointError(
            f"{path} has {file_size} bytes where its header needs {end}; download the checkpoint again."
        )
