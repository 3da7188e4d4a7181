"""Hashes of weights that were computed before on this machine, so that a model is not read twice at every start.

A file is the one that was hashed while its device, inode, size and both times are the same: a write moves the time of
the last change of its status, which only the system sets.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..files.containment import status_of
from ..files.held_folder import state_of
from ..files.records import Sha256
from ..files.user_cache import UserCache
from .checks import check_hash

__all__ = ["check_hash_once"]

_FILE, _MOST_BYTES, _MOST_FILES = "hashes.json", 1 << 16, 128
# A write within the clock's step of the hashing, which on some file systems is 2 s, could leave the times as they are;
# and one to a page that is mapped does until the page is written back, which Linux does within 30 s.
_STEP = 60 * 10**9


class _Known(msgspec.Struct, frozen=True):
    state: tuple[int, int, int, int, int]
    sha256: Sha256


def check_hash_once(path: Path, sha256: str, check: Callable[[], None]) -> None:
    """As `check_hash`, but a file that had the hash before, and was not written to since, is not read.

    Raises:
        ArtifactError: As `check_hash`.
    """
    begun, cache, before = time.time_ns(), UserCache("hashes"), _state(path)
    if before is not None and _Known(before, sha256) in _read(cache):
        return
    check_hash(path, sha256, check)
    if before is None or before != _state(path) or before[-1] > begun - _STEP:
        return
    others = [each for each in _read(cache) if each.state[:2] != before[:2]]
    newest = [*others, _Known(before, sha256)][-_MOST_FILES:]
    with contextlib.suppress(OSError):
        cache.write(_FILE, msgspec.json.encode(newest))


def _state(path: Path) -> tuple[int, int, int, int, int] | None:
    with contextlib.suppress(OSError):
        return state_of(status_of(path))
    return None


def _read(cache: UserCache) -> list[_Known]:
    try:
        return msgspec.json.decode(cache.read(_FILE, max_bytes=_MOST_BYTES), type=list[_Known])
    except (OSError, ValueError):  # not there, or damaged
        return []
