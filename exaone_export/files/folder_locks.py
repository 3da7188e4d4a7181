"""Locks on folders, by which processes tell who writes one and whether its writer is alive."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from .opening import open_folder

__all__ = ["lock", "lock_folder", "locked", "make_and_lock", "try_lock", "without_writers"]


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
