"""Strict JSON for untrusted files: size, depth and duplicate keys are checked, and the result is always an object.

``json.loads`` takes the last of two equal keys and reads ``NaN`` and ``Infinity``; a file that two programs read
differently is refused here instead.
"""

from __future__ import annotations

import codecs
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ExaoneExportError

__all__ = ["numbered_lines", "parse_object", "read_bytes", "read_object"]

MAX_DEPTH = 32


class _RefusedError(ValueError):
    """A rule of this module was broken; its text completes the sentence."""


def read_bytes(path: Path, *, max_bytes: int, error: type[ExaoneExportError]) -> bytes:
    """Read a small regular file whole.

    Args:
        path: The file; a symlink is followed, because the Hugging Face cache is made of them.
        max_bytes: The most that is read.
        error: What is raised.

    Raises:
        ExaoneExportError: Of the type ``error``: the file is missing, unreadable, not a regular file, or too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # A FIFO would block for ever, a device never ends.
            raise error(f"{path} is not a regular file; give the path of a file.")
        if status.st_size > max_bytes:
            raise error(f"{path} has {status.st_size} bytes, and at most {max_bytes} are read; put a valid file there.")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as cause:
        reason = "does not exist" if isinstance(cause, FileNotFoundError) else f"cannot be read ({cause.strerror})"
        raise error(f"{path} {reason}; check the path and its permissions.") from cause
    if len(data) > max_bytes:
        raise error(f"{path} grew beyond {max_bytes} bytes while it was read; try again once it is complete.")
    return data


def read_object(path: Path, *, max_bytes: int, error: type[ExaoneExportError]) -> dict[str, Any]:
    """Read a JSON file that must hold one object; refuses what `read_bytes` and `parse_object` refuse."""
    return parse_object(read_bytes(path, max_bytes=max_bytes, error=error), name=str(path), error=error)


def numbered_lines(
    file: BinaryIO, *, name: str, max_bytes: int, error: type[ExaoneExportError]
) -> Iterator[tuple[int, bytes]]:
    """The lines of a JSONL file that are not blank, with their numbers from 1; a byte order mark is left out.

    Args:
        file: Open for reading.
        name: What it is called in messages.
        max_bytes: The most that a line may have, its end included.
        error: What is raised.

    Raises:
        ExaoneExportError: Of the type ``error``: a line is too long.
    """
    number = 0
    while line := file.readline(max_bytes + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # Windows' editors write it
        if len(line) > max_bytes:
            raise error(f"line {number} of {name} is longer than {max_bytes} bytes; break it into several.")
        if line.strip():
            yield number, line


def parse_object(data: bytes, *, name: str, error: type[ExaoneExportError]) -> dict[str, Any]:
    """Parse a JSON text that must be one object.

    Args:
        data: UTF-8 text.
        name: What the text is called in messages.
        error: What is raised.

    Raises:
        ExaoneExportError: Of the type ``error``: not JSON, not UTF-8, not an object, a key given twice, ``NaN`` or
            ``Infinity``, or nested deeper than ``MAX_DEPTH``.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        if not isinstance(value, dict):
            raise _RefusedError(f"holds a {type(value).__name__}, not an object")
        _check_depth(value)
    except _RefusedError as cause:
        raise error(f"{name} {cause}; correct the file.") from None
    except RecursionError as cause:
        raise error(f"{name} is nested deeper than {MAX_DEPTH} levels; correct the file.") from cause
    except ValueError as cause:  # JSONDecodeError, UnicodeDecodeError, and integers of thousands of digits.
        raise error(f"{name} is not valid JSON ({cause}); correct the file.") from cause
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _RefusedError(f"gives the key {key[:80]!r} twice")
        result[key] = value
    return result


def _refuse_constant(constant: str) -> None:
    raise _RefusedError(f"contains {constant}, which is not JSON")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _RefusedError(f"is nested deeper than {MAX_DEPTH} levels")
