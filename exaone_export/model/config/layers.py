"""Which layers are local, by a list of types or a pattern, and how wide their window is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..spec import FULL_ATTENTION, LAYER_TYPES, SLIDING_ATTENTION
from .values import integer, required, show

__all__ = ["read_layer_types", "read_window"]


def read_window(config: Mapping[str, Any]) -> int | None:
    """Width of the local layers' window; None where every layer is global."""
    # An absent key is 4096 to transformers and "no window" to others, and it decides which layers rotate.
    value = required(config, "sliding_window")
    return None if value is None else integer(value, "sliding_window")


def read_layer_types(config: Mapping[str, Any], num_layers: int, window: int | None) -> tuple[str, ...]:
    """The type of every layer, whether they are listed or follow from a pattern."""
    stated, pattern = config.get("layer_types"), config.get("sliding_window_pattern")
    if isinstance(pattern, bool) or not isinstance(pattern, int | str | None):
        raise ConfigError(
            f"sliding_window_pattern is {show(pattern)}, not a number, a text such as 'LLLG', or null; correct "
            f"config.json."
        )
    if stated is None:
        return _layer_types_from_pattern(pattern, num_layers, window)
    if not isinstance(stated, list | tuple) or not all(isinstance(layer_type, str) for layer_type in stated):
        raise ConfigError(
            f"layer_types is {show(stated)}, not a list of {' and '.join(LAYER_TYPES)}; correct config.json."
        )
    return tuple(stated)  # whatever the pattern says: transformers saves its default beside them


def _pattern(pattern: int | str | None, num_layers: int, window: int | None) -> tuple[str, ...] | None:
    """What ``sliding_window_pattern`` says of each layer; None if it says nothing."""
    if pattern is None or window is None:
        return None  # Without a window every reader ignores the pattern; transformers then writes 0 there.
    if isinstance(pattern, str):
        if not pattern or set(pattern) - set("LG"):
            raise ConfigError(f"sliding_window_pattern is {show(pattern)}, not a text of L and G; correct config.json.")
        return tuple(
            SLIDING_ATTENTION if pattern[index % len(pattern)] == "L" else FULL_ATTENTION for index in range(num_layers)
        )
    every = integer(pattern, "sliding_window_pattern")
    return tuple(FULL_ATTENTION if (index + 1) % every == 0 else SLIDING_ATTENTION for index in range(num_layers))


def _layer_types_from_pattern(written: int | str | None, num_layers: int, window: int | None) -> tuple[str, ...]:
    if window is None:
        return (FULL_ATTENTION,) * num_layers
    pattern = _pattern(written, num_layers, window)
    if pattern is None:
        raise ConfigError(
            f"sliding_window is {window}, but neither layer_types nor sliding_window_pattern says which layers it is "
            f"for; add layer_types to config.json."
        )
    if pattern[-1] != FULL_ATTENTION:
        # transformers documents a global last layer; its code, and other readers, do not make one of every pattern.
        raise ConfigError(
            f"sliding_window_pattern {show(written)} over {num_layers} layers ends in a sliding layer, which some "
            f"programs read as a global one; add layer_types to config.json."
        )
    return pattern
