"""The sha256 of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

__all__ = ["hash_of"]

_PIECE = 1 << 20


def hash_of(file: Path | BufferedReader, check: Callable[[], None] = lambda: None) -> str:
    """Sha256 of a whole file, in hexadecimal digits.

    Args:
        file: Its path, or the file opened at its beginning.
        check: Called for every MiB; what it raises ends the reading.

    Raises:
        OSError: It cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb", buffering=0) as opened:
            return _hash(opened, check)
    return _hash(file, check)


def _hash(file: Any, check: Callable[[], None]) -> str:
    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
    while size := file.readinto(piece):
        check()
        digest.update(piece[:size])
    return digest.hexdigest()
