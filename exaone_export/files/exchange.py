"""Puts a finished folder in the place of another, under names beside the destination.

* ``.NAME.HEX.staging``: a folder in the making. Its writer holds a lock on the folder itself, so that the next
  writer knows the folder of a living process from what a killed one has left.
* ``.NAME.HEX.retired``: a folder that is being replaced, for the moment between two renames, where the file system
  cannot exchange two folders in one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import uuid
from pathlib import Path

from .folder_locks import lock_folder

__all__ = ["HEX_DIGITS", "clean_up", "finish_exchange", "mode_of", "put_in_place", "set_mode", "sibling", "siblings"]

HEX_DIGITS = 32
"""Of the random part, or the key, in a name."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


def _swap(one: Path, other: Path) -> None:
    """Let two folders change their names in one step (Linux's ``renameat2``), so that neither is missing in between.

    Raises:
        OSError: The file system cannot do that, or refused.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))


def put_in_place(staging: Path, destination: Path) -> Path | None:
    """Give ``staging`` the name ``destination``.

    Returns:
        Where the folder that had that name is now; None where there was none.

    Raises:
        OSError: The file system refused; both folders have their old names then.
    """
    if not destination.exists() or not any(destination.iterdir()):
        staging.rename(destination)  # An empty folder is replaced by rename itself.
        return None
    try:
        _swap(staging, destination)
    except OSError as refusal:
        if refusal.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
    else:
        return staging
    retired = sibling(destination, uuid.uuid4().hex, "retired")
    destination.rename(retired)
    try:
        staging.rename(destination)
    except BaseException:
        retired.rename(destination)
        raise
    return retired


def mode_of(folder: Path) -> int | None:
    """Permission bits of a folder; None where there is none."""
    return stat.S_IMODE(folder.stat().st_mode) if folder.exists() else None


def set_mode(folder: Path, mode: int) -> None:
    """Give a folder permission bits, where it can have them."""
    with contextlib.suppress(OSError):  # A file system without modes, or a folder of another user's.
        folder.chmod(mode)


def sibling(destination: Path, digits: str, kind: str) -> Path:
    """A folder beside the destination, of the kind ``staging`` or ``retired``."""
    return destination.with_name(f".{destination.name}.{digits}.{kind}")


def siblings(destination: Path, kind: str) -> list[Path]:
    """This user's folders of one kind beside the destination."""
    pattern = re.compile(re.escape(f".{destination.name}.") + rf"[0-9a-f]{{{HEX_DIGITS}}}\.{kind}")
    return [entry for entry in destination.parent.iterdir() if pattern.fullmatch(entry.name) and _is_own_folder(entry)]


def _is_own_folder(path: Path) -> bool:
    """Not a link, and nobody else's, whose folder of that name is not ours to put in place or to remove."""
    try:
        status = path.lstat()
    except OSError:  # It is gone.
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def finish_exchange(destination: Path) -> None:
    """Do the second of two renames between which a writer was killed; the parent is locked."""
    for retired in siblings(destination, "retired"):
        if destination.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(destination)


def clean_up(destination: Path, keep: Path | None = None) -> None:
    """Remove what killed writers of the same destination have left; the parent is locked."""
    for staging in siblings(destination, "staging"):
        if staging != keep and (descriptor := lock_folder(staging)) is not None:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(descriptor)
