"""Opening a file or a folder by its own name: a link in its place is refused."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["open_folder", "open_itself"]


def open_itself(path: str | Path, flags: int = os.O_RDONLY, *, folder: int | None = None, mode: int = 0o666) -> int:
    """A descriptor of what lies at ``path``, which must not be a link; its folders may be.

    A FIFO or a device is not waited for: where special files matter, the caller looks at the descriptor's status.

    Args:
        path: Absolute, or relative to ``folder``.
        flags: Of `os.open`.
        folder: The descriptor of a folder; the current one by default.
        mode: Permission bits of a new file, less the umask.

    Raises:
        OSError: It is a link, or cannot be opened.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=folder)


def open_folder(folder: Path) -> int:
    """A descriptor of a folder that is not a link.

    Raises:
        OSError: It is not a folder, or cannot be opened.
    """
    return open_itself(folder, os.O_RDONLY | os.O_DIRECTORY)
