"""Checks that a path in a download leads to a file of that download, and nowhere else.

An archive or a clone can contain links, so that a harmless name leads to a private file of the user's, which an export
would copy into an artifact that is published later. Special files never end or block for ever.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from ..errors import ExaoneExportError
from .opening import open_itself

__all__ = ["check_file", "find_outside", "identity", "in_hub_cache", "read_file", "status_of"]

# Names in the Hugging Face cache: the folder of a repository, and in it those of its commits and of its files.
_REPOSITORY, _SNAPSHOTS, _BLOBS = "models--", "snapshots", "blobs"
# A cache's repositories share large files: `blobs/ab/abcd…` of the cache, a link to which lies in a repository's blobs.
_SHARED, _STORE = re.compile("[0-9a-f]{64}"), ".huggingface-shared-blobs"


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
        The file's status.

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
    """What identifies an unchanged file: device, inode, bytes, and the last change of its content in ns."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def find_outside(path: Path, root: Path) -> tuple[bool, Path]:
    """Whether a path leaves the folder ``root`` and its repository's blobs, and where it leads.

    ``root`` itself may be named through links. In a repository of the Hugging Face cache they may lead to the
    repository, and not on from within it.

    Raises:
        OSError: It leads nowhere, or its links form a circle.
    """
    folder, given = root.resolve(), root.absolute()
    try:
        target = path.resolve(strict=True)
    except RuntimeError as cause:  # links that form a circle, before Python 3.13
        raise OSError(None, "its links form a circle") from cause
    repository = given.parent.parent
    named = given.parent.name == _SNAPSHOTS and repository.name.startswith(_REPOSITORY)
    if named and not folder.is_relative_to(repository.resolve()):
        return True, target
    cached = folder.parent.name == _SNAPSHOTS and _is_blob(target, folder / path.name, folder.parent.parent)
    return not (cached or target.is_relative_to(folder)), target


def _is_blob(target: Path, link: Path, repository: Path) -> bool:
    """Whether a link leads to a file of its repository's blobs, or through them to one that repositories share."""
    blobs, store = repository / _BLOBS, repository.parent / _BLOBS
    if blobs.resolve() != blobs:  # flat, and a folder: a link could lead anywhere
        return False
    if target.parent == blobs:
        return True
    if target.parent.parent != store or store.resolve() != store or not (store / _STORE).is_file():
        return False
    named = _SHARED.fullmatch(target.name) is not None and target.parent.name == target.name[:2]
    return named and link.is_symlink() and Path(os.path.normpath(link.parent / link.readlink())).parent == blobs


def in_hub_cache(folder: Path) -> bool:
    """Whether a folder is a snapshot of the Hugging Face cache, which holds what the hub holds."""
    snapshots = folder.resolve().parent
    return snapshots.name == _SNAPSHOTS and snapshots.parent.name.startswith(_REPOSITORY)


def status_of(path: Path) -> os.stat_result:
    """The status of a file itself; of a link in the Hugging Face cache, that of the file of its repository.

    Raises:
        OSError: There is nothing.
    """
    status = path.lstat()
    if not stat.S_ISLNK(status.st_mode) or not in_hub_cache(path.parent):
        return status
    outside, target = find_outside(path, path.parent)
    return status if outside or target.parent == path.parent.resolve() else target.stat()
