"""Where a path that comes with a download may lead: to a file of that download, and nowhere else.

An archive or a clone can bring links, so a harmless name may mean a private file of the user's, which an export would
read and copy into an artifact that is published later. Special files never end or wait for ever.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from exaone_export.errors import ExaoneExportError

__all__ = ["check_file", "find_outside"]


def check_file(
    path: Path, *, root: Path, max_bytes: int | None, error: type[ExaoneExportError], shared: bool = False
) -> os.stat_result:
    """Raise unless a file of a checkpoint is a regular one that belongs to it; nothing of it is read.

    A link is followed only where it stays in the folder, or, in a snapshot of the Hugging Face cache, where it leads to
    that repository's own ``blobs``.

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
    if status.st_nlink > 1 and not shared and target.is_relative_to(root.resolve()):
        raise error(
            f"{path} is a hard link that shares its content with another file; copy the files, not their links."
        )
    return status


def find_outside(path: Path, root: Path) -> tuple[bool, Path]:
    """Whether a path leaves the folder ``root`` and its repository's blobs, and where it leads.

    Raises:
        OSError: It leads nowhere, or round in a circle.
    """
    folder = root.resolve()
    try:
        target = path.resolve(strict=True)
    except RuntimeError as cause:  # Links that lead round in a circle, before Python 3.13.
        raise OSError(None, "its links lead round in a circle") from cause
    roots = [folder]
    if folder.parent.name == "snapshots":
        roots.append((folder.parent.parent / "blobs").resolve())
    return not any(target.is_relative_to(allowed) for allowed in roots), target
