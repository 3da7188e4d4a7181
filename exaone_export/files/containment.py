"""Where a path that comes with a download may lead: to a file of that download, and nowhere else.

An archive or a clone can bring links, so a harmless name may mean a private file of the user's, which an export would
read and copy into an artifact that is published later. Special files never end or wait for ever.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import ExaoneExportError
from .opening import open_itself

__all__ = ["check_file", "find_outside", "identity", "read_file"]

# What the Hugging Face cache calls the folder of a repository, and in it that of its commits and that of its files.
_REPOSITORY, _SNAPSHOTS, _BLOBS = "models--", "snapshots", "blobs"


def check_file(
    path: Path, *, root: Path, max_bytes: int | None, error: type[ExaoneExportError], shared: bool = False
) -> os.stat_result:
    """Raise unless a file of a checkpoint is a regular one that belongs to it; nothing of it is read.

    A link is followed only where it stays in the folder, or, in a snapshot of the Hugging Face cache, where it leads to
    a file that lies in that repository's own ``blobs``.

    Args:
        path: The file.
        root: The checkpoint's folder.
        max_bytes: The most bytes that it may have; None for no limit.
        error: What is raised.
        shared: Whether other names outside of the folder (hard links) may mean the same file.

    Returns:
        What the file system says of the file.

    Raises:
        ExaoneExportError: Of the type ``error``: the file is missing, leads elsewhere, is special, shared or too large.
    """
    try:
        outside, target = find_outside(path, root)
        status = target.stat()
    except OSError as cause:
        raise error(f"{path} cannot be found ({cause.strerror}); download the checkpoint again.") from cause
    if outside:
        raise error(f"{path} is a link to a file outside of its folder; put the file itself there.")
    if not stat.S_ISREG(status.st_mode):  # A FIFO would block for ever, a device never ends.
        raise error(f"{path} is not a regular file; put the {path.name} of the model there.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise error(f"{path} has {status.st_size} bytes, and at most {max_bytes} are read; put a valid file there.")
    if status.st_nlink > 1 and not shared:
        raise error(
            f"{path} is a hard link that shares its content with another file; copy the files, not their links."
        )
    return status


def read_file(path: Path, *, root: Path, max_bytes: int, error: type[ExaoneExportError]) -> bytes:
    """Read a small file of a checkpoint whole: the very file that `check_file` has looked at.

    Raises:
        ExaoneExportError: Of the type ``error``: as `check_file`, or the file changed meanwhile.
    """
    status = check_file(path, root=root, max_bytes=max_bytes, error=error)
    try:
        descriptor = open_itself(path.resolve())  # another file may have taken its place meanwhile
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(max_bytes + 1) if identity(os.fstat(descriptor)) == identity(status) else b""
            same = identity(os.fstat(descriptor)) == identity(status)
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause
    if not same:
        raise error(f"{path} changed while it was read; run the command again.")
    return data


def identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """What tells that a file is still the same: device, inode, bytes, and the last change of its content in ns."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def find_outside(path: Path, root: Path) -> tuple[bool, Path]:
    """Whether a path leaves the folder ``root`` and its repository's blobs, and where it leads.

    Whoever names ``root`` may do so through links. In a repository of the Hugging Face cache they may lead to the
    repository, and not on from within it.

    Raises:
        OSError: It leads nowhere, or round in a circle.
    """
    folder, given = root.resolve(), root.absolute()
    try:
        target = path.resolve(strict=True)
    except RuntimeError as cause:  # Links that lead round in a circle, before Python 3.13.
        raise OSError(None, "its links lead round in a circle") from cause
    repository = given.parent.parent
    named = given.parent.name == _SNAPSHOTS and repository.name.startswith(_REPOSITORY)
    if named and not folder.is_relative_to(repository.resolve()):
        return True, target
    blobs = folder.parent.parent / _BLOBS  # flat, and a folder: as a link, it would lead wherever it likes
    cached = folder.parent.name == _SNAPSHOTS and target.parent == blobs and blobs.resolve() == blobs
    return not (cached or target.is_relative_to(folder)), target
