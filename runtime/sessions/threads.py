"""How many physical cores a process may use."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def physical_cores() -> int:
    """Physical cores available to this process.

    Two hardware threads of one core share its arithmetic units, so a second thread on a core only slows the first down.
    Where the topology cannot be read, every logical core counts.
    """
    try:
        available = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    try:
        siblings = {(_TOPOLOGY / f"cpu{n}/topology/thread_siblings_list").read_text() for n in available}
    except OSError:
        return len(available)
    return len(siblings)
