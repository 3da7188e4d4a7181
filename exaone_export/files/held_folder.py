"""An opened artifact's folder, held to detect whether its files are still those that were checked.

Runtimes and tokenizers open files by their paths, and an artifact is replaced by a rename: between the check of a file
and its use, the path may come to lead to another artifact. So the status of every checked file is remembered, and
compared when all of it has been read.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from ..errors import ArtifactError, ArtifactReplacedError
from .containment import status_of

__all__ = ["HeldFolder", "state_of"]


class HeldFolder:
    """A folder and the files of it that were checked; it stays open, so that no other folder gets its inode number.

    Args:
        folder: Its path; a link to it is followed.

    Raises:
        ArtifactError: It cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[int, ...]] = {}
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as cause:
            raise ArtifactError(f"{folder} cannot be read ({cause.strerror}); check its permissions.") from cause
        weakref.finalize(self, os.close, self._descriptor)

    def remember(self, name: str, status: os.stat_result) -> None:
        """Remember a file's status from before it was read; `check` compares it."""
        self._files[name] = state_of(status)

    def forget(self, name: str) -> None:
        """Stop checking a file."""
        self._files.pop(name, None)

    def check(self) -> None:
        """Raise unless the path still leads to this folder, and every file remembered is untouched.

        Raises:
            ArtifactReplacedError: It does not.
        """
        try:
            same = os.path.samestat(self._folder.stat(), os.fstat(self._descriptor)) and all(
                state_of(status_of(self._folder / name)) == identity for name, identity in self._files.items()
            )
        except OSError:
            same = False
        if not same:
            raise ArtifactReplacedError(f"{self._folder} was replaced while it was open; open it again.")


def state_of(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """What differs once a file was written to or replaced: device, inode, bytes, and two times in ns."""
    # The times reveal a write in place; a program can set the first, and not the second.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
