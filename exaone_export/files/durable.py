"""Files that outlast a crash: written, synced and renamed, so that they are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .opening import open_itself

__all__ = ["NO_ROOM", "PARTIAL", "replacing", "sync", "write_all", "write_synced"]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that is full."""

# Not named after the destination, whose name may be as long as names can be.
PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial")
"""Names of files that `replacing` writes; one that a killed process has left can be removed."""


@contextlib.contextmanager
def replacing(
    path: str | Path, *, folder: int | None = None, staged: Path | None = None, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of ``path`` in one step when the block ends, and is synced.

    Where the block raises, the disk refuses or the process dies, ``path`` stays what it was.

    Args:
        path: The destination; relative to ``folder`` where that is given.
        folder: The descriptor of the destination's folder.
        staged: Where the file is written first, on the same file system; a hidden name beside ``path`` by default.
        mode: Permission bits, less the umask.

    Raises:
        OSError: The disk refused.
    """
    path = Path(path)
    partial = staged or path.with_name(f".{uuid.uuid4().hex}.partial")
    descriptor = open_itself(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, folder=folder, mode=mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, path, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=folder)
        raise
    if folder is None:
        sync(path.parent)
    else:
        os.fsync(folder)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it.

    Raises:
        OSError: The disk refused, or the file exists.
    """
    descriptor = open_itself(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; the operating system may take fewer at a time.

    Raises:
        OSError: The disk refused.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names.

    Raises:
        OSError: The disk refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
