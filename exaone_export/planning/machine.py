"""What this machine has to spare: memory, disk and processors."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

__all__ = ["available_memory", "export_workers", "free_disk", "logical_cores", "resident_memory", "total_memory"]

_MEMINFO, _STATUS = Path("/proc/meminfo"), Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that new work can have without swapping: ``MemAvailable``, or what the control group leaves; None unknown.

    The control group is the container's; its file cache counts as free, as ``MemAvailable`` counts the machine's.
    """
    found = [size for size in (_kib(_MEMINFO, "MemAvailable"), _left_in_group()) if size is not None]
    return min(found, default=None)


def total_memory() -> int | None:
    """Bytes of memory, or what the control group may have of them; None where Linux does not say."""
    found = [size for size in (_kib(_MEMINFO, "MemTotal"), _group_limit()) if size is not None]
    return min(found, default=None)


def resident_memory() -> int:
    """Bytes of memory that this process has already; 0 where Linux does not say."""
    return _kib(_STATUS, "VmRSS") or 0


def free_disk(path: Path) -> int:
    """Bytes free where ``path`` is or would be made."""
    place = path.expanduser().resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def logical_cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def export_workers() -> int:
    """How many workers of an export fill the data file side by side: two to four, each on one processor."""
    return min(max(logical_cores(), 2), 4)


def _kib(path: Path, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _group_limit() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
    except OSError:
        return None
    return int(limit) if limit.isdecimal() else None


def _left_in_group() -> int | None:
    limit = _group_limit()
    if limit is None:
        return None
    try:
        used = int((_CGROUP / "memory.current").read_text())
        cache = re.search(r"^inactive_file (\d+)$", (_CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return max(limit - used + (int(cache[1]) if cache else 0), 0)
