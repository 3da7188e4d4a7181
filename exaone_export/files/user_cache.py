"""What this program keeps from one start to the next, in folders that only this user can write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .durable import replacing
from .opening import open_folder, open_itself

__all__ = ["UserCache", "cache_folder"]


def cache_folder() -> Path | None:
    """``$XDG_CACHE_HOME/exaone-export``, by default below ``~/.cache``; None for a user without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        cache = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "exaone-export"


class UserCache:
    """Small and large files that can be made again: whoever reads or writes one goes on where that fails.

    Args:
        name: A folder of `cache_folder`.
    """

    def __init__(self, name: str) -> None:
        above = cache_folder()
        self._folder = None if above is None else above / name

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """A file's content.

        Args:
            name: The file's.
            max_bytes: The most that it may have.

        Raises:
            OSError: It is not there, is not a regular file, is larger, or another user could have written it.
        """
        folder = self._open()
        try:
            descriptor = open_itself(name, folder=folder)
        finally:
            os.close(folder)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > max_bytes:
                raise OSError(f"{name} is not a file that was written here")
            _check_private(status)
            return file.read()

    def write(self, name: str, *parts: bytes) -> None:
        """Replace a file in one step by the parts, one behind the other; folders are made, for this user alone.

        Raises:
            OSError: The user has no home, the disk refused, or another user could write into the folder.
        """
        folder = self._open(make=True)
        try:
            with replacing(name, folder=folder, mode=0o600) as file:
                file.writelines(parts)
        finally:
            os.close(folder)

    def _open(self, *, make: bool = False) -> int:
        if self._folder is None:
            raise FileNotFoundError("this user has no home directory")
        if make:
            self._folder.parent.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = open_folder(self._folder)
        try:
            for folder in (self._folder.parent, self._folder):
                _check_private(folder.lstat())
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _check_private(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("another user could have written it")
