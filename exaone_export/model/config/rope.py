"""RoPE in the spellings of transformers 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..rope import STATIC_ROPE_TYPES, RopeSpec
from ..spec import LAYER_TYPES
from .values import integer, number, show

__all__ = ["read_rope"]

# Scaling numbers of each rope type: required, then optional.
_ROPE_PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "default": (frozenset(), frozenset()),
    "linear": (frozenset({"factor"}), frozenset()),
    "llama3": (
        frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
        frozenset(),
    ),
    "yarn": (
        frozenset({"factor", "original_max_position_embeddings"}),
        frozenset({"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}),
    ),
}
_ORIGINAL_LENGTH = "original_max_position_embeddings"


def read_rope(config: Mapping[str, Any]) -> RopeSpec:
    """Rotary position embedding, from ``rope_scaling`` or ``rope_parameters``."""
    # transformers 4 knows rope_scaling alone, and 5 puts it, unless it is empty, in the place of rope_parameters.
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    source = config.get(key) or {}
    _check_rope_source(key, source)
    return _rope_reading(key, source, config, _theta(config, key, source))


def _check_rope_source(key: str, parameters: Any) -> None:
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{key} is {show(parameters)}, not an object; correct config.json.")
    if any(layer_type in parameters for layer_type in LAYER_TYPES):
        raise ConfigError(
            f"{key} is nested by layer type, but EXAONE has one RoPE for all rotary layers; make it flat in "
            f"config.json."
        )


def _theta(config: Mapping[str, Any], key: str, source: Mapping[str, Any]) -> float:
    # transformers 5 prefers the one inside, and 4 knows the one outside alone.
    inside, outside = f"{key}.rope_theta", "rope_theta"
    values = {
        name: number(value, name)
        for name, value in ((outside, config.get("rope_theta")), (inside, source.get("rope_theta")))
        if value is not None
    }
    if len(set(values.values())) > 1:
        raise ConfigError(
            f"rope_theta is {values[outside]:g} and {inside} is {values[inside]:g}; keep one of them in config.json."
        )
    if not values:
        other = config.get("rope_parameters")
        if isinstance(other, Mapping) and other.get("rope_theta") is not None:
            raise ConfigError(
                "rope_theta stands in rope_parameters, which rope_scaling replaces; remove the one of the two that is "
                "stale from config.json."
            )
        raise ConfigError("rope_theta is missing, and it decides the architecture; add it to config.json.")
    return next(iter(values.values()))


def _rope_reading(key: str, source: Mapping[str, Any], config: Mapping[str, Any], theta: float) -> RopeSpec:
    stated = source.get("rope_type") or source.get("type")  # transformers prefers the first
    rope_type = "default" if stated is None else str(stated)
    if rope_type not in STATIC_ROPE_TYPES:
        return RopeSpec(rope_type, theta)  # Raises, naming the type.
    for place in (source, config):
        # Of whole heads, transformers' default type makes no use of it, and the others fail.
        if place.get("partial_rotary_factor") not in (None, 1, 1.0) and rope_type != "default":
            raise ConfigError(
                f"partial_rotary_factor is {show(place['partial_rotary_factor'])}, but EXAONE rotates whole heads; "
                f"choose such a checkpoint."
            )

    numbers = {
        name: value
        for name, value in source.items()
        if value is not None and name not in ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    }
    required, optional = _ROPE_PARAMETERS[rope_type]
    outside = config.get(_ORIGINAL_LENGTH)  # transformers prefers this one to the one inside.
    if outside is not None and _ORIGINAL_LENGTH in required:
        inside = numbers.setdefault(_ORIGINAL_LENGTH, outside)
        if inside != outside:
            raise ConfigError(
                f"{_ORIGINAL_LENGTH} is {show(outside)} and, in {key}, {show(inside)}; keep one of them in config.json."
            )
    if missing := sorted(required - numbers.keys()):
        raise ConfigError(f"{key} of type {rope_type} lacks {', '.join(missing)}; add it to config.json.")
    unused = sorted(numbers.keys() - required - optional)
    if unused and stated is None:
        raise ConfigError(f"{key} has {unused[0]!r} and no rope_type that it is for; add rope_type to config.json.")
    parameters = tuple((name, _rope_number(f"{key}.{name}", numbers[name])) for name in sorted(numbers.keys() - unused))
    rope = RopeSpec(rope_type, theta, parameters)
    for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if low in rope.scaling and high in rope.scaling and rope.scaling[low] >= rope.scaling[high]:
            raise ConfigError(
                f"{key}.{low} ({rope.scaling[low]:g}) is not below {high} ({rope.scaling[high]:g}); correct "
                f"config.json."
            )
    return rope


def _rope_number(name: str, value: Any) -> float:
    if name.endswith(".truncate"):
        if not isinstance(value, bool):
            raise ConfigError(f"{name} is {show(value)}, not true or false; correct config.json.")
        return value
    if name.endswith(_ORIGINAL_LENGTH):
        return integer(value, name)
    return number(value, name)
