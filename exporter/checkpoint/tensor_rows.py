"""A tensor of a safetensors file, read some rows at a time.

Pages of a mapped file count as a process's own memory until the system takes them back; what is read into a buffer is
gone with the buffer. And a file that was cut while it was mapped ends the process, where a read ends in an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from exaone_export.errors import CheckpointError

from .safetensors_file import SafetensorsHeader, TensorInfo
from .tensor_file import TORCH_TYPES, as_bytes

__all__ = ["read_rows"]


def read_rows(shard: SafetensorsHeader, info: TensorInfo, rows: int) -> Iterator[torch.Tensor]:
    """Read one tensor.

    Args:
        shard: The header that the file had when it was opened.
        info: One of its tensors, of a type of `exaone_export.exporter.checkpoint.tensor_file.TORCH_TYPES`.
        rows: How many at a time; of a vector, elements.

    Yields:
        ``[rows, …]``, each with memory of its own; the last part is shorter. Who lets go of one before the next has one
        in memory.

    Raises:
        CheckpointError: The file is no longer the one whose header was read, or cannot be read.
    """
    try:
        descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            shard.check_unchanged(descriptor)
            start = info.offset
            for begun in range(0, info.shape[0], rows):
                part = torch.empty(min(rows, info.shape[0] - begun), *info.shape[1:], dtype=TORCH_TYPES[info.dtype])
                start += _read_into(descriptor, as_bytes(part), start)
                shard.check_unchanged(descriptor)
                yield part
                del part  # or there would be two of them while the next is read
        finally:
            os.close(descriptor)
    except EOFError as cause:
        raise CheckpointError(f"{shard.path} changed while it was read; run the command again.") from cause
    except OSError as cause:
        raise CheckpointError(f"{shard.path} cannot be read ({cause.strerror}); run the command again.") from cause


def _read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill the buffer; gives its length."""
    done = 0
    while done < len(buffer):
        found = os.preadv(descriptor, [buffer[done:]], offset + done)
        if not found:
            raise EOFError
        done += found
    return done
