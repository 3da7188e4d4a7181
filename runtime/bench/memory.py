"""The memory that a process has held, on the host and on a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

__all__ = ["device_memory", "peak_memory"]

_PROCESSES = Path("/proc")


def peak_memory(process: int | Literal["self"] = "self", *, less: int = 0) -> int | None:
    """The most bytes that a process has had in memory since it began (``VmHWM``); None where Linux does not say.

    Args:
        process: Its id.
        less: Bytes that are not to count, and that were in memory at the peak.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", (_PROCESSES / str(process) / "status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 - less if found else None


def device_memory(device: str, *, less: int | None = 0) -> int | None:
    """Bytes in use on a GPU, by all processes; None for the CPU."""
    if device == "cpu":
        return None
    import torch

    free, total = torch.cuda.mem_get_info()
    return int(total - free) - (less or 0)
