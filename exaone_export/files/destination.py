"""Checks of a destination before any work, because a rename is refused only when all work is done."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from ..errors import ExaoneExportError

__all__ = ["check_replaceable", "is_mount", "resolve_path"]

_MOUNTS = Path("/proc/self/mountinfo")


def resolve_path(path: str | Path, error: type[ExaoneExportError]) -> Path:
    """The absolute path, without links.

    Raises:
        ExaoneExportError: Of the type ``error``: it names nothing, such as the home of a user who does not exist.
    """
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as cause:  # a current folder that is gone, ~nobody, a NUL byte
        reason = getattr(cause, "strerror", None) or str(cause)
        raise error(f"{str(path)!r} is not a path that can be used ({reason}); choose another destination.") from cause


def check_replaceable(destination: Path, error: type[ExaoneExportError]) -> None:
    """Raise unless a finished folder or file can be renamed to a resolved path; nothing is written.

    Raises:
        ExaoneExportError: Of the type ``error``: it cannot; the message has a destination that can be used instead.
    """
    try:
        why = _why_not(destination)
        folder = destination.is_dir() and os.access(destination, os.W_OK | os.X_OK)
    except OSError as cause:  # a folder above it may not be looked into
        why, folder = f"cannot be inspected ({cause.strerror})", False
    if why is None:
        return
    if folder:  # It can hold what is made, but cannot be renamed.
        raise error(f"{destination} {why}, so it cannot be replaced; pass a new folder in it: {destination / 'NAME'}.")
    raise error(f"{destination} {why}; choose another destination.")


def is_mount(path: Path) -> bool:
    """Whether something is mounted at a resolved path; `os.path.ismount` misses what is of the same file system."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return os.path.ismount(path)
    points = (re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split()[4]) for line in lines)
    return os.fsencode(path) in points


def _why_not(destination: Path) -> str | None:
    if is_mount(destination):
        return "is a mount point"
    if destination.exists() and destination.samefile(os.curdir):
        return "is the current folder"  # Every shell in it would be left in a removed folder.
    parent = next(folder for folder in destination.parents if folder.exists())
    if not parent.is_dir():
        return f"cannot be made, because {parent} is a file"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"is made in {parent}, where nothing can be written"
    above = parent.stat()
    if destination.exists() and above.st_mode & stat.S_ISVTX:
        owner = destination.stat().st_uid
        if os.geteuid() not in (0, owner, above.st_uid):
            return f"is another user's, and only its owner may replace it in {parent}"
    return None
