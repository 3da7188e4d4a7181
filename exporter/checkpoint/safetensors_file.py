"""The header of one safetensors file, checked before a byte of a tensor is read.

The format is eight bytes of header length, a JSON header, then the data: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from exaone_export.errors import CheckpointError, ExaoneExportError
from exaone_export.files import strict_json
from exaone_export.files.containment import identity
from exaone_export.model.dtypes import DTYPES, FLOATS

__all__ = ["FLOAT_TYPES", "READ_TYPES", "SafetensorsHeader", "TensorInfo", "read_texts"]

_NAMES = {dtype.name: dtype.safetensors for dtype in DTYPES.values() if dtype.safetensors is not None}
_SIZES = {name: DTYPES[dtype].bits // 8 for dtype, name in _NAMES.items()}

FLOAT_TYPES = tuple(name for dtype, name in _NAMES.items() if dtype in FLOATS)
"""Types of weights that are not quantized, and of scales."""

READ_TYPES = (*FLOAT_TYPES, *(_NAMES[dtype] for dtype in ("int64", "int32", "int8", "float8_e4m3fn")))
"""Types of tensors that are read; the format's others may stand in a file beside them."""

# The format allows 100 MB. This architecture needs 0.2 MB for 64 layers, and a parsed header takes ten times its text.
MAX_HEADER_BYTES = 16 << 20

_LENGTH_BYTES = 8
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: Its name in the file.
        dtype: As the format calls it.
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
        return math.prod(self.shape) * _SIZES[self.dtype]


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a file says it holds, proven to be what its size can hold.

    Attributes:
        path: The file.
        raw: The header as it lies in the file, its length included.
        tensors: By name; those that are not read are left out.
        metadata: The texts beside them; empty where they are missing or malformed.
        file_size: Bytes of the whole file.
        identity: Of the file that was read; see `exaone_export.files.containment.identity`.
    """

    path: Path
    raw: bytes
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    file_size: int
    identity: tuple[int, int, int, int]

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        dtypes: Collection[str] = FLOAT_TYPES,
        unread: Callable[[str], bool] = lambda _: False,
        error: type[ExaoneExportError] = CheckpointError,
        fix: str = "download the checkpoint again",
    ) -> SafetensorsHeader:
        """Read and check the header.

        Args:
            path: The file.
            dtypes: Of the tensors that it may hold, out of `READ_TYPES`.
            unread: Whether a tensor of this name is left out; it may be of any type.
            error: What is raised.
            fix: What the user is told to do then.

        Raises:
            ExaoneExportError: Of the type ``error``: the file is missing, is not a safetensors file, holds a type that
                cannot be exported, or is not exactly as long as its header says: a copy that was cut, or a header that
                lies.
        """
        try:
            _check_regular(path)
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                size, seen = status.st_size, identity(status)
                raw = _read_raw(file, path, size)
            header = strict_json.parse_object(raw[_LENGTH_BYTES:], name=f"the header of {path.name}", error=error)
            metadata = header.pop("__metadata__", None)
            every = tuple(_SIZES)
            tensors = {
                name: _tensor(name, value, path, len(raw), every if unread(name) else dtypes)
                for name, value in header.items()
            }
            _check_layout(path, list(tensors.values()), len(raw), size)
        except OSError as cause:
            raise error(f"{path} cannot be read ({cause.strerror}); {fix}.") from cause
        except _FlawError as flaw:
            raise error(f"{flaw}; {flaw.fix or fix}.") from None
        texts = metadata if _is_texts(metadata) else {}
        return cls(path, raw, {name: info for name, info in tensors.items() if not unread(name)}, texts, size, seen)

    def check_unchanged(self, descriptor: int | None = None, error: type[ExaoneExportError] = CheckpointError) -> None:
        """Raise unless the file is still the one whose header was read; a header alone would not tell.

        Args:
            descriptor: Of the file, where it is open; otherwise what its path leads to now is looked at.
            error: What is raised.

        Raises:
            ExaoneExportError: Of the type ``error``: it is another file, or was written to.
        """
        try:
            status = self.path.stat() if descriptor is None else os.fstat(descriptor)
        except OSError as cause:
            raise error(f"{self.path} cannot be read ({cause.strerror}); run the command again.") from cause
        if identity(status) != self.identity:
            raise error(f"{self.path} changed while it was read; run the command again.")


def read_texts(path: Path) -> dict[str, str]:
    """The texts in a file's header, whether the tensors behind it are whole or not; empty where there are none."""
    try:
        _check_regular(path)
        with path.open("rb") as file:
            raw = _read_raw(file, path, os.fstat(file.fileno()).st_size)
        header = strict_json.parse_object(raw[_LENGTH_BYTES:], name=path.name, error=CheckpointError)
    except (OSError, _FlawError, CheckpointError):
        return {}
    texts = header.get("__metadata__")
    return texts if _is_texts(texts) else {}


class _FlawError(Exception):
    """The file is not what it should be; carries the words that begin the sentence, and its end where it is special."""

    def __init__(self, words: str, fix: str | None = None) -> None:
        super().__init__(words)
        self.fix = fix


def _check_regular(path: Path) -> None:
    status = path.stat()  # Follows links: the Hugging Face cache is made of them.
    if not stat.S_ISREG(status.st_mode):  # Opening a FIFO would wait for ever.
        raise _FlawError(f"{path} is not a regular file")


def _read_raw(file: BinaryIO, path: Path, size: int) -> bytes:
    prefix = file.read(_LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise _FlawError(f"{path} ends within its header")
    if length > MAX_HEADER_BYTES:
        raise _FlawError(f"{path} has a header of {length} bytes, and at most {MAX_HEADER_BYTES} are read")
    return prefix + file.read(length)


def _tensor(name: str, value: Any, path: Path, data_start: int, dtypes: Collection[str]) -> TensorInfo:
    dtype, shape, offsets = (
        value.get(key) if isinstance(value, dict) else None for key in ("dtype", "shape", "data_offsets")
    )
    if not _is_sizes(shape) or len(shape) > _MAX_DIMENSIONS or not _is_sizes(offsets) or len(offsets) != 2:
        raise _FlawError(f"the header of {path.name} does not describe {name[:80]!r}")
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise _FlawError(
            f"{name[:80]} in {path.name} is {str(dtype)[:20]}, and only {', '.join(dtypes)} can be exported",
            fix="convert it to float32" if dtype == "F64" else "use the unquantized checkpoint",
        )
    tensor = TensorInfo(name, dtype, tuple(shape), path, data_start + offsets[0])
    if offsets[1] - offsets[0] != tensor.num_bytes:
        raise _FlawError(
            f"{name[:80]} in {path.name} has {offsets[1] - offsets[0]} bytes where its shape needs {tensor.num_bytes}"
        )
    return tensor


def _is_texts(value: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)


def _check_layout(path: Path, tensors: list[TensorInfo], data_start: int, file_size: int) -> None:
    """Raise unless the tensors tile the file: a gap could hide data, an overlap or a short file would lie."""
    end = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.num_bytes)):
        if tensor.offset != end:
            raise _FlawError(
                f"{tensor.name[:80]} in {path.name} starts at byte {tensor.offset}, not where the one before it ends "
                f"({end})"
            )
        end += tensor.num_bytes
    if end != file_size:
        raise _FlawError(f"{path} has {file_size} bytes where its header needs {end}")
