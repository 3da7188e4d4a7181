"""Files and folders that outlast a crash: written and synced, locked while somebody is at them, exchanged at once."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "NO_ROOM",
    "hash_of",
    "lock",
    "lock_folder",
    "locked",
    "make_and_lock",
    "open_folder",
    "swap",
    "sync",
    "try_lock",
    "without_writers",
    "write_all",
    "write_synced",
]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that is full."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


def hash_of(path: Path) -> str:
    """Sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it.

    Raises:
        OSError: The disk refused, or something stands there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
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


def swap(one: Path, other: Path) -> None:
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


def open_folder(folder: Path) -> int:
    """A descriptor of a folder that is no link."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def lock(descriptor: int) -> None:
    """Lock a folder until its descriptor is closed, by the end of the process at the latest."""
    with contextlib.suppress(OSError):  # A network file system may have no locks; renames alone keep artifacts whole.
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> bool:
    """Lock a folder unless another process holds it, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, so that processes look, clean up and rename in it one after the other."""
    descriptor = open_folder(folder)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def without_writers(folder: Path) -> Iterator[None]:
    """Keep writers from replacing a folder meanwhile, where its parent can be opened for a lock."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(locked(folder.resolve().parent))
        yield


def make_and_lock(folder: Path) -> int | None:
    """A locked folder of that name, made or taken over from a process that is gone; the parent is locked.

    Returns:
        Its descriptor, which holds the lock until it is closed; None where another process holds the folder, it is
        another user's or a link, or the file system has no locks.
    """
    try:
        folder.mkdir()
    except FileExistsError:
        descriptor = lock_folder(folder)
        # The name can be foretold, and somebody else's folder may be full of links.
        if descriptor is not None and os.fstat(descriptor).st_uid != os.geteuid():
            os.close(descriptor)
            descriptor = None
        return descriptor
    descriptor = lock_folder(folder)
    if descriptor is None:
        folder.rmdir()  # Without locks nobody could ever tell that it is abandoned.
    return descriptor


def lock_folder(folder: Path) -> int | None:
    """The descriptor of a folder that was locked; None where it cannot be, or is no longer there."""
    try:
        descriptor = open_folder(folder)
    except OSError:
        return None
    if try_lock(descriptor) and _is_at(descriptor, folder):
        return descriptor
    os.close(descriptor)
    return None


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether an opened folder still has its name; its writer removes it without a lock that another could wait for."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.lstat())
    except FileNotFoundError:
        return False
