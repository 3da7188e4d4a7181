"""Where a session's caches and outputs live: arrays that are made there, and sliced and assigned as numpy's are."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["HOST", "HostMemory", "Memory"]


class Memory(Protocol):
    """A device's memory. Two objects of the same memory are equal.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
    """

    @property
    def device(self) -> str: ...  # noqa: D102 - above

    def block(self, size: int, dtype: str, *, finite: bool) -> Any:
        """``[size]`` numbers for caches; unspecified ones, or zeros if they must be ``finite``."""
        ...

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """An array of unspecified numbers, for what a step gives."""
        ...

    def copy(self, array: Any) -> Any:
        """The same numbers in an array of their own."""
        ...

    def address(self, array: Any) -> int:
        """Where a contiguous array begins; not 0 for an empty one either."""
        ...

    def numbers(self, array: Any, dtype: str) -> np.ndarray:
        """An array of floats on the host, in a type that numpy computes in; by one copy at most, which is waited for.

        Args:
            array: In this memory.
            dtype: Of its numbers, which an array of bfloat16 does not tell.
        """
        ...

    def on_host(self, array: Any) -> np.ndarray:
        """The same bits on the host, as `HOST` holds them; the array itself if it is there already."""
        ...

    def write(self, array: Any, bits: np.ndarray) -> None:
        """Fill an array with the bits of what `on_host` has given for it."""
        ...


@dataclass(frozen=True)
class HostMemory:
    """The host's memory, in numpy arrays. bfloat16, which numpy does not know, is held as its bits, in uint16."""

    device = "cpu"

    def block(self, size: int, dtype: str, *, finite: bool) -> np.ndarray:
        """See `Memory.block`."""
        kind = _numpy_dtype(dtype)
        # Not from numpy, which asks for huge pages: then the first token of a cache makes most of it resident.
        pages = mmap.mmap(-1, max(size * kind.itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return np.frombuffer(pages, kind, size)

    def empty(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        """See `Memory.empty`."""
        return np.empty(shape, _numpy_dtype(dtype))

    def copy(self, array: np.ndarray) -> np.ndarray:
        """See `Memory.copy`."""
        return array.copy()

    def address(self, array: np.ndarray) -> int:
        """See `Memory.address`."""
        assert array.flags.c_contiguous
        if not array.size:
            return array.ctypes.data
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))  # a fifth of the time of `array.ctypes`

    def numbers(self, array: np.ndarray, dtype: str) -> np.ndarray:
        """See `Memory.numbers`."""
        return (array.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else array

    def on_host(self, array: np.ndarray) -> np.ndarray:
        """See `Memory.on_host`."""
        return array

    def write(self, array: np.ndarray, bits: np.ndarray) -> None:
        """See `Memory.write`."""
        if bits is not array:
            array[:] = bits


HOST = HostMemory()


def _numpy_dtype(dtype: str) -> np.dtype[Any]:
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)
