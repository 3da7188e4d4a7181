"""Proof of what was not read: the kernel tells of every file that is opened in a folder, by whatever library."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OPENED, _READ = 0x20, 0x1  # IN_OPEN and IN_ACCESS of inotify(7)
_EVENT = struct.Struct("iIII")
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def unread(folder: Path) -> Iterator[None]:
    """Fail if a file of the folder is opened or read inside, under whatever name."""
    descriptor = _LIBC.inotify_init1(os.O_NONBLOCK)
    assert descriptor >= 0
    try:
        for path in (folder, *folder.iterdir()):
            assert _LIBC.inotify_add_watch(descriptor, os.fsencode(path), _OPENED | _READ) >= 0
        yield
        data = b""
        with suppress(BlockingIOError):
            data = os.read(descriptor, 1 << 16)
        assert not data, f"read outside of the folder: {_names(data)}"
    finally:
        os.close(descriptor)


def _names(data: bytes) -> list[str]:
    names, position = [], 0
    while position < len(data):
        _, _, _, length = _EVENT.unpack_from(data, position)
        position += _EVENT.size
        names.append(data[position : position + length].rstrip(b"\0").decode())
        position += length
    return names


def reset_peak() -> int:
    """Forget the peak of this process's memory, and give what it holds now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most memory that this process has held since `reset_peak`, in bytes."""
    return _status("VmHWM")


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
