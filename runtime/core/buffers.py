"""The memory of the hybrid cache: one array for every layer's keys and one for its values, and a pool of them.

Legend: B batch, H num_key_value_heads, R rows of the layer's buffer, D head_dim.
"""

from __future__ import annotations

import copy
import math
import threading
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from exaone_export.model.dtypes import DTYPES
from exaone_export.targets.cache_layout import CacheLayout

from .memory import HOST, Memory

# Layers begin at multiples of 256 bytes, as TensorRT wants it.
_ALIGNMENT = 256


@dataclass(frozen=True)
class CacheGeometry:
    """Size and kind of a cache's buffers, apart from the batch.

    Attributes:
        layout: Capacity and window of every layer.
        num_key_value_heads: H.
        head_dim: D.
        dtype: Of keys and values, a key of `exaone_export.model.dtypes.DTYPES`.
        in_place: Whether a step writes into the buffers that it reads; otherwise two sets take turns.
        memory: Where the buffers live.
        finite_rows: Whether rows that hold no position must be finite all the same, because the graph multiplies them
            by zero.
    """

    layout: CacheLayout
    num_key_value_heads: int
    head_dim: int
    dtype: str
    in_place: bool
    memory: Memory = HOST
    finite_rows: bool = False

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``."""
        return self.memory.device

    @property
    def item_bytes(self) -> int:
        """Bytes of one number of keys and values."""
        return DTYPES[self.dtype].bits // 8

    def rows(self, count: int) -> Any:
        """An array of so many rows outside of a cache, ``[1, H, count, D]``, of unspecified numbers."""
        return self.memory.empty((1, self.num_key_value_heads, count, self.head_dim), self.dtype)


class CacheBuffers:
    """Keys and values ``[B, H, R, D]`` of every layer, in the graph's order.

    What the rows mean is known to `RowCaches`. Fresh buffers are not cleared without need, because rows that hold no
    position are never read; pages that no token reaches cost no memory.

    Attributes:
        batch: B.
        sets: One or two lists of ``key, value, key, value, …``; a step reads ``sets[current]``.
        current: The set that holds the newest state.
    """

    def __init__(self, geometry: CacheGeometry, batch: int) -> None:
        self.batch = batch
        self.current = 0
        self._parts: dict[tuple[int, int], CacheBuffers] = {}
        shapes = [
            (batch, geometry.num_key_value_heads, layer.rows, geometry.head_dim)
            for layer in geometry.layout.layers
            for _ in ("key", "value")
        ]
        aligned = [-(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT for shape in shapes]
        self._blocks = [
            geometry.memory.block(sum(aligned), geometry.dtype, finite=geometry.finite_rows)
            for _ in range(1 if geometry.in_place else 2)
        ]
        starts = [0, *accumulate(aligned)]
        self.sets = [
            [
                block[start : start + math.prod(shape)].reshape(shape)
                for start, shape in zip(starts, shapes, strict=False)
            ]
            for block in self._blocks
        ]

    @property
    def tensors(self) -> list[Any]:
        """The newest state."""
        return self.sets[self.current]

    @property
    def target(self) -> int:
        """The set that the next step writes: the one it reads where there is only one."""
        return (self.current + 1) % len(self.sets)

    def layer(self, index: int) -> tuple[Any, Any]:
        """Key and value of one layer."""
        key, value = self.tensors[2 * index : 2 * index + 2]
        return key, value

    def row(self, index: int) -> CacheBuffers:
        """One row of the batch; see `part`."""
        return self.part(index, index + 1)

    def part(self, start: int, stop: int) -> CacheBuffers:
        """Rows ``[start, stop)`` of the batch, on the same memory; made once, so that a session binds them once."""
        if (start, stop) == (0, self.batch):
            return self
        assert len(self.sets) == 1  # two sets would take turns for some rows alone
        if (start, stop) not in self._parts:
            part = copy.copy(self)
            part.batch, part._parts = stop - start, {}
            part.sets = [[tensor[start:stop] for tensor in self.tensors]]
            part._blocks = part.sets[0]
            self._parts[start, stop] = part
        return self._parts[start, stop]

    def clear(self) -> None:
        """Make every row of every layer zero: one launch on a GPU, where 60 take longer to queue than to run."""
        for block in self._blocks:
            block[:] = 0

    def turn(self) -> None:
        """Make the set that a step has just written the newest one."""
        self.current = self.target


class BufferPool:
    """Buffers that no cache uses any more, for the next cache of the same batch size.

    Only the last set returned is kept: it is what a loop of `generate()` calls needs, and it bounds the memory.
    """

    def __init__(self, geometry: CacheGeometry) -> None:
        self.geometry = geometry
        self._idle: CacheBuffers | None = None
        self._lock = threading.Lock()

    def take(self, batch: int) -> CacheBuffers:
        """Buffers for ``batch`` rows; what they hold is unspecified."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is None or idle.batch != batch:
            return CacheBuffers(self.geometry, batch)
        if self.geometry.finite_rows:
            # A prompt that overflowed would otherwise reach every prompt after it.
            idle.clear()
        return idle

    def give(self, buffers: CacheBuffers) -> None:
        """Return buffers that nothing reads any more."""
        self._idle = buffers

    def clear(self) -> None:
        """Release the idle buffers."""
        self._idle = None
