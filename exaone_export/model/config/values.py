"""Single values of a ``config.json``, each refused with a message that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError

__all__ = ["flag", "integer", "number", "positive", "required", "show", "size", "token"]

# Far above any model, far below what would exhaust memory before the first check.
_MAX_SIZE = 1 << 31


def show(value: Any) -> str:
    """A value for a message: short, whatever the file says."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def required(config: Mapping[str, Any], key: str) -> Any:
    """The value of a key that must be there."""
    if key not in config:
        raise ConfigError(f"{key} is missing, and it decides the architecture; add it to config.json.")
    return config[key]


def integer(value: Any, name: str, *, minimum: int = 1, maximum: int = _MAX_SIZE) -> int:
    """A value that must be an integer within limits."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ConfigError(f"{name} is {show(value)}, not an integer from {minimum} to {maximum}; correct config.json.")
    return value


def number(value: Any, name: str) -> float:
    """A value that must be a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e12:
        raise ConfigError(f"{name} is {show(value)}, not a positive finite number; correct config.json.")
    return float(value)


def size(config: Mapping[str, Any], key: str, *, maximum: int = _MAX_SIZE) -> int:
    """A key whose value must be a positive integer."""
    return integer(required(config, key), key, maximum=maximum)


def positive(config: Mapping[str, Any], key: str) -> float:
    """A key whose value must be a positive finite number."""
    return number(required(config, key), key)


def flag(config: Mapping[str, Any], key: str) -> bool:
    """A key whose value must be true or false; false where it is missing."""
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {show(value)}, not true or false; correct config.json.")
    return value


def token(value: Any, name: str) -> int | None:
    """A token id, or None."""
    return None if value is None else integer(value, name, minimum=0)
