"""How fast memory can be read, measured where and when an artifact is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

_CPUS = Path("/sys/devices/system/cpu")
_PASSES = 5
_SMALLEST_BUFFER = 256 << 20
_GPU_BUFFER = 2 << 30
_CACHES_IN_BUFFER = 4
# A runtime's threads wait for the next step in a busy loop before they sleep; ONNX Runtime's do for some milliseconds.
_SECONDS_TO_SETTLE = 0.05


class ReadBandwidth:
    """Sums a buffer that no cache holds.

    The sum of float32 is PyTorch's; a core adds faster than it reads. The buffer is four times the last-level caches
    of the processors that may be used, and at least 256 MiB; on a GPU it has 2 GiB.

    Args:
        threads: That read, where it is not on a GPU.
        device: Where the session computes.

    Attributes:
        host_bytes: Of the buffer, 0 on a GPU; they lie in memory as long as this object does.
    """

    def __init__(self, threads: int, device: str = "cpu") -> None:
        self._threads, self._on_gpu = threads, device != "cpu"
        size = _GPU_BUFFER if self._on_gpu else max(_SMALLEST_BUFFER, _CACHES_IN_BUFFER * last_level_caches())
        self.host_bytes = 0 if self._on_gpu else size
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            # Each thread writes the part that it reads later, so that the pages lie near it.
            self._buffer = torch.ones(size // 4, dtype=torch.float32, device=device)
        finally:
            torch.set_num_threads(before)

    def measure(self) -> float:
        """Bytes a second, the best of five passes."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            self._wait()
            time.sleep(0 if self._on_gpu else _SECONDS_TO_SETTLE)
            best = min(self._pass() for _ in range(_PASSES))
        finally:
            torch.set_num_threads(before)
        return self._buffer.nbytes / best

    def _pass(self) -> float:
        start = time.perf_counter()
        self._buffer.sum()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()


def last_level_caches() -> int:
    """Bytes of the last-level caches of the processors that this process may use; 0 where Linux does not say."""
    caches: dict[str, int] = {}
    try:
        for cpu in os.sched_getaffinity(0):
            last = max((_CPUS / f"cpu{cpu}" / "cache").glob("index*"), key=lambda path: int(path.name[5:]))
            size = (last / "size").read_text().strip()
            caches[(last / "shared_cpu_list").read_text()] = int(size.rstrip("KM")) << (20 if size[-1] == "M" else 10)
    except (AttributeError, OSError, ValueError):
        return 0
    return sum(caches.values())
