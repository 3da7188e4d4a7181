"""An object of ``config.json`` whose values are checked when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exaone_export.errors import ConfigError
from exaone_export.model.config.values import show

__all__ = ["FIX", "Section", "check_block", "check_multiple"]

FIX = "choose the original checkpoint, and a --precision"

_MISSING: Any = object()
_SMALLEST_BLOCK = 16


class Section:
    """One object of the config.

    Args:
        name: What messages call it.
        values: Its content.

    Raises:
        ConfigError: From every method: the value is not there, or not one that can be exported.
    """

    def __init__(self, name: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{name} is {show(values)}, not an object; {FIX}.")
        self.name, self._values = name, values

    def choice(self, keys: str | Sequence[str], allowed: Sequence[Any], default: Any = _MISSING) -> Any:
        """The value of a key, or of several that mean the same, which must be one of those allowed."""
        keys = (keys,) if isinstance(keys, str) else keys
        found = {key: self._values[key] for key in keys if self._values.get(key) is not None}
        for key, value in found.items():
            if not any(type(value) is type(one) and value == one for one in allowed):
                raise self._error(key, f"is {show(value)}, and only {_listed(allowed)} can be exported")
        first = next(iter(found.values()), default)
        if first is _MISSING:
            raise self._error(keys[0], "is missing")
        if any(value != first for value in found.values()):
            raise self._error(" and ".join(found), "differ")
        return first

    def size(self, key: str, *, channel: int | None = None) -> int:
        """A positive integer; ``channel`` is the value that means a whole channel, and gives 0."""
        value = self._values.get(key)
        if channel is not None and type(value) is int and value == channel:
            return 0
        if type(value) is not int or value < 1:
            raise self._error(key, f"is {show(value)}, not a positive integer")
        return value

    def pair(self, key: str) -> tuple[int, int] | None:
        """Two positive integers, or None where the key is absent."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 or not all(type(one) is int and one > 0 for one in value):
            raise self._error(key, f"is {show(value)}, not two positive integers")
        return value[0], value[1]

    def refuse(self, *keys: str) -> None:
        """Refuse keys that change what the tensors mean; absent, null, false or empty they do not."""
        for key in keys:
            if self._values.get(key):
                raise self._error(key, f"is {show(self._values[key])}, which cannot be exported")

    def objects(self, key: str) -> list[Section]:
        """The objects in an object, which must not be empty."""
        values = self._values.get(key)
        if not isinstance(values, dict) or not values:
            raise self._error(key, f"is {show(values)}, not an object of objects")
        return [Section(f"{self.name}.{key}.{str(name)[:40]}", value) for name, value in values.items()]

    def object(self, key: str) -> Section | None:
        """An object, or None where the key is absent."""
        value = self._values.get(key)
        return None if value is None else Section(f"{self.name}.{key}", value)

    def keys(self, key: str) -> list[str]:
        """The keys of an object; none where it is absent."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._error(key, f"is {show(value)}, not an object")
        return [str(name) for name in value or ()]

    def _error(self, key: str, found: str) -> ConfigError:
        return ConfigError(f"{self.name}.{key} {found}; {FIX}.")


def check_block(block: int, name: str) -> int:
    """Refuse a block that no kernel supports: not a power of two, or below 16; 0 is a whole channel."""
    if block and (block < _SMALLEST_BLOCK or block & (block - 1)):
        raise ConfigError(f"{name} is {block}, not a power of two from {_SMALLEST_BLOCK} on; {FIX}.")
    return block


def check_multiple(module: str, what: str, size: int, factor: int) -> None:
    """Refuse a projection whose ``size`` inputs or outputs are not a multiple of ``factor``."""
    if size % factor:
        raise ConfigError(f"{module} has {size} {what}, and its quantization needs a multiple of {factor}; {FIX}.")


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in values)
