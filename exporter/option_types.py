"""The types of options that a program passes; what the command line gives has them already."""

from __future__ import annotations

import operator
import os
import types
import typing
from collections.abc import Collection
from numbers import Real
from pathlib import Path
from typing import Any

from exaone_export.errors import UnsupportedOptionError

__all__ = ["convert_types"]


def convert_types(options: Any) -> None:
    """Give every field of a dataclass a value of the type that is written at it, where its value can stand for one.

    NumPy's numbers become Python's, what names a path becomes a `Path`, and a collection becomes a tuple. A text in
    place of a number would otherwise fail in the middle of the work, and a fraction would end in a manifest.

    Args:
        options: An instance, frozen or not, whose fields are of plain types, of paths, or of collections of these.

    Raises:
        UnsupportedOptionError: A value is of another type.
    """
    for name, hint in typing.get_type_hints(type(options)).items():
        value = getattr(options, name)
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for kind in kinds:
            try:
                converted = _convert(value, kind)
            except (TypeError, OverflowError):
                continue
            object.__setattr__(options, name, converted)
            break
        else:
            named = [_name(kind) for kind in kinds if kind is not types.NoneType]
            raise UnsupportedOptionError(
                f"{name} is {value!r:.40}, of type {type(value).__name__}; pass {' or '.join(named)}."
            )


def _convert(value: Any, kind: Any) -> Any:
    """The value as one of a type; raises TypeError or OverflowError where it does not stand for one."""
    if typing.get_origin(kind) is Collection:
        if isinstance(value, str) or not isinstance(value, Collection):
            raise TypeError
        (inner,) = typing.get_args(kind)
        return tuple(_convert(each, inner) for each in value)
    if isinstance(value, bool) and kind is not bool:  # Python takes it for an int
        raise TypeError
    if kind is int:
        return operator.index(value)
    if kind is float and isinstance(value, Real):
        return value if type(value) is int else float(value)  # a manifest has an int as it was given
    if kind is Path and isinstance(value, os.PathLike):
        return Path(value)
    if not isinstance(value, kind):
        raise TypeError
    return value


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is Collection:
        return f"a list of {typing.get_args(kind)[0].__name__}"
    return f"{'an' if kind is int else 'a'} {kind.__name__}"
