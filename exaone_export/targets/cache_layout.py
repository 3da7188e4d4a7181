"""The arithmetic of the static hybrid cache, in one place.

Every layer's cache is a buffer ``[batch, num_key_value_heads, capacity, head_dim]``. After ``T`` tokens its rows
``[0, L)`` hold the ``L`` newest positions, oldest first: row ``i`` is absolute position ``T - L + i``. Rows from ``L``
on are unspecified and are never read.

A global layer never evicts: ``L = T``. A local layer with window ``W`` and capacity ``C`` evicts in blocks of
``G = C - W + 1`` rows, so that the rows move once in ``G`` tokens and not once a token:

    evicted(T) = G * ceil(max(T - C, 0) / G)        L = T - evicted(T)

This is the law of ONNX Runtime's ``GroupQueryAttention`` with ``sliding_window_cache=1``; with ``C = W`` it is the
usual ring of ``W`` rows, kept in order.

Where the graph cannot evict (TensorRT), a step appends its tokens behind the resident rows and the runtime evicts
afterwards, by the same law. The buffer then has ``headroom`` rows more than ``C``, as many as a step has tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ArtifactError, ConfigError
from ..files.records import Count, Record, Size, read_record
from ..model.spec import LayerSpec

PAST, PRESENT = "past_key_values.", "present."
"""What the caches that a graph reads and writes are called, before the layer and ``key`` or ``value``."""

MAX_LENGTH = 1 << 24
"""Tokens that a row may hold: positions are turned into angles as float32, which tells no more of them apart."""


def cache_names(prefix: str, layers: int) -> list[str]:
    """The keys and values of every layer, in the order of a graph's inputs and outputs.

    Args:
        prefix: `PAST` or `PRESENT`.
        layers: How many.
    """
    return [f"{prefix}{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def evicted_positions(tokens: Any, capacity: int, window: int) -> Any:
    """How many positions are no longer resident after ``tokens`` tokens.

    Args:
        tokens: An integer, or an array or a tensor of integers.
        capacity: Rows that may be resident between steps.
        window: Keys that a query sees; 0 for a global layer.

    Returns:
        The same type and shape.
    """
    if not window or capacity < window:
        return tokens * 0
    block, over = capacity - window + 1, tokens - capacity
    return block * -(-over * (over > 0) // block)


@dataclass(frozen=True)
class LayerCache:
    """One layer's cache.

    Attributes:
        capacity: Rows that may be resident between steps, ``C``.
        window: Keys that a query sees, itself included, ``W``; 0 for a global layer, which sees all.
        headroom: Rows behind the capacity that a step's own tokens are appended to; 0 where the graph evicts.
    """

    capacity: int
    window: int
    headroom: int = 0

    @property
    def rows(self) -> int:
        """Rows of the buffer."""
        return self.capacity + self.headroom

    def evicts(self, max_length: int) -> bool:
        """Whether rows are ever lost within ``max_length`` tokens."""
        return bool(self.window) and self.capacity < max_length

    def evicted(self, tokens: int) -> int:
        """Positions ``[0, evicted)`` that are no longer resident after ``tokens`` tokens."""
        return int(evicted_positions(tokens, self.capacity, self.window))

    def resident_rows(self, tokens: int) -> int:
        """Rows ``[0, L)`` that hold positions ``[tokens - L, tokens)``."""
        return tokens - self.evicted(tokens)

    def oldest_needed(self, tokens: int) -> int:
        """The oldest position that the token at position ``tokens`` still sees."""
        return max(tokens - self.window + 1, 0) if self.window else 0


@dataclass(frozen=True)
class CacheLayout:
    """Capacity and window of every layer's cache.

    Attributes:
        max_length: The most tokens, prompt and answer together, that a row may hold.
        layers: One `LayerCache` a layer.
    """

    max_length: int
    layers: tuple[LayerCache, ...]

    @classmethod
    def plan(cls, layers: Sequence[LayerSpec], max_length: int, slack: int, headroom: int = 0) -> CacheLayout:
        """Lay out the caches of a model.

        Args:
            layers: The model's layers.
            max_length: The most tokens that a row may hold, at least 2.
            slack: Rows that a local layer holds beyond its window, at most as many as the window has; a window is moved
                once in ``slack + 1`` tokens.
            headroom: Tokens of the longest step, where the runtime evicts after it; 0 where the graph evicts.

        Raises:
            ConfigError: ``max_length`` is below 2 or above `MAX_LENGTH`, or ``slack`` or ``headroom`` is negative.
        """
        if max_length < 2:
            raise ConfigError(f"max length is {max_length}; it must be at least 2: pass --max-length 2 or more.")
        if max_length > MAX_LENGTH:
            raise ConfigError(
                f"max length is {max_length}; it must be at most {MAX_LENGTH}: pass --max-length {MAX_LENGTH} or less."
            )
        if slack < 0:
            raise ConfigError(f"cache slack is {slack}; it must not be negative.")
        if headroom < 0:
            raise ConfigError(f"cache headroom is {headroom}; it must not be negative.")
        return cls(max_length, tuple(_layer_cache(layer.window, max_length, slack, headroom) for layer in layers))

    @property
    def longest_step(self) -> int | None:
        """The most tokens that a step may bring; None for no limit."""
        return min((layer.headroom for layer in self.layers if layer.headroom), default=None)

    def rows(self, batch: int = 1) -> int:
        """Rows of all layers' buffers together, for ``batch`` sequences."""
        return batch * sum(layer.rows for layer in self.layers)

    def num_bytes(self, num_key_value_heads: int, head_dim: int, itemsize: int, batch: int = 1) -> int:
        """Bytes of all keys and values."""
        return 2 * self.rows(batch) * num_key_value_heads * head_dim * itemsize

    def to_dict(self) -> dict[str, Any]:
        """The form that the manifest holds."""
        return {
            "max_length": self.max_length,
            "capacities": [layer.capacity for layer in self.layers],
            "windows": [layer.window for layer in self.layers],
            "headrooms": [layer.headroom for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> CacheLayout:
        """Read `to_dict`'s form back.

        Raises:
            ArtifactError: The form is not `to_dict`'s.
        """
        stored = read_record(value, _Stored, name="the manifest's cache layout", fix=_AGAIN, error=ArtifactError)
        rows = zip(stored.capacities, stored.windows, stored.headrooms, strict=True)
        layout = cls(stored.max_length, tuple(LayerCache(*row) for row in rows))
        if any(layer.evicts(layout.max_length) and layer.capacity < layer.window for layer in layout.layers):
            raise ArtifactError(f"the manifest's cache layout breaks the cache law; {_AGAIN}.")
        return layout


class _Stored(Record, frozen=True):
    """`CacheLayout.to_dict`'s form."""

    max_length: Count
    capacities: list[Count]
    windows: list[Size]
    headrooms: list[Size]

    def __post_init__(self) -> None:
        if not len(self.capacities) == len(self.windows) == len(self.headrooms):
            raise ValueError("capacities, windows and headrooms are not of one length")


_AGAIN = "export the model again"


def _layer_cache(window: int, max_length: int, slack: int, headroom: int) -> LayerCache:
    capacity = window + min(slack, window)
    # A local layer that can hold every token is given just that many rows, even where its window is longer.
    if not window or capacity + headroom >= max_length:
        return LayerCache(max_length, window)
    return LayerCache(capacity, window, headroom)
