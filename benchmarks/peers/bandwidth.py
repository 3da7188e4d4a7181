"""What all cores read from memory: the sum of 2 GiB of float32, passes of bytes a second as a line of JSON.

A sum has next to no arithmetic, and the array is many times larger than any cache, so the time is the memory's.
"""

from __future__ import annotations

import json
import time

import figures
import torch

BYTES, PASSES = 1 << 31, 8


def main() -> None:
    """Read the array a few times."""
    torch.set_num_threads(figures.threads())
    array = torch.ones(BYTES // 4)
    rates = []
    for _ in range(PASSES + 1):
        start = time.perf_counter()
        array.sum()
        rates.append(BYTES / (time.perf_counter() - start))
    print(json.dumps(rates[1:]))


if __name__ == "__main__":
    main()
