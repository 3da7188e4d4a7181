"""Tables of a weight file that stay mapped, and their pages, which a process need not hold between steps.

ONNX Runtime keeps an initializer that no kernel repacks where it lies: mapped from the file. Of the embedding a step
reads a row a token, but Linux makes everything around a row resident that lies in the same folio of the page cache, up
to 2 MiB, so that a prompt of some hundred tokens holds nearly all of the table. Unmapping the pages gives that memory
back; they stay in the page cache, where the next look-up finds them.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Collection
from pathlib import Path

# Smaller ones, norms and scales, are read whole at every step.
_SMALLEST_BYTES = 64 << 20
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s*(.*)")


class MappedTables:
    """The large parts of a file that this process has mapped and never written to.

    Where the system has no ``/proc/self/smaps``, there are none.

    Args:
        path: The file.
        besides: Start and bytes of those that somebody else has mapped, and may unmap; see `clean_ranges`.
    """

    def __init__(self, path: Path, besides: Collection[tuple[int, int]] = ()) -> None:
        self._ranges = [
            (start, size)
            for start, size in clean_ranges(path)
            if size >= _SMALLEST_BYTES and (start, size) not in besides
        ]
        self._madvise = ctypes.CDLL(None, use_errno=True).madvise if self._ranges else None

    @property
    def num_bytes(self) -> int:
        """Bytes that are mapped, resident or not."""
        return sum(size for _, size in self._ranges)

    def release(self) -> None:
        """Make no page of them resident; reading one maps it again."""
        for start, size in self._ranges:
            assert self._madvise is not None
            # Only advice: where it is not taken, the pages stay.
            self._madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(mmap.MADV_DONTNEED))


def clean_ranges(path: Path) -> list[tuple[int, int]]:
    """Start and bytes of the file's mappings without a page of this process's own, which unmapping would lose."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return []
    name, ranges, inside = str(path.resolve()), dict[int, int](), 0
    for line in lines:
        if (found := _RANGE.fullmatch(line)) is not None:
            inside = int(found[1], 16) if found[3] == name else 0
            if inside:
                ranges[inside] = int(found[2], 16) - inside
        elif inside and line.startswith("Anonymous:") and line.split()[1] != "0":
            del ranges[inside]
            inside = 0
    return list(ranges.items())
