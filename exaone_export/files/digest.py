"""The sha256 of a file."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from pathlib import Path

__all__ = ["hash_of"]


def hash_of(file: Path | BufferedReader) -> str:
    """Sha256 of a whole file, in hexadecimal digits.

    Args:
        file: Its path, or the file opened at its beginning.

    Raises:
        OSError: It cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return hash_of(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()
