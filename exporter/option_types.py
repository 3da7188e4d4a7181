"""The types of options that a program passes; what the command line gives has them already."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

from exaone_export.errors import UnsupportedOptionError

__all__ = ["check_types"]


def check_types(options: Any) -> None:
    """Raise unless every field of a dataclass has a value of the type that is written at it.

    Without this, a text in place of a number fails in the middle of the work, or a fraction ends in a manifest.

    Args:
        options: An instance whose fields are of plain types, of paths, or of sequences of these.

    Raises:
        UnsupportedOptionError: A value has another type.
    """
    for name, hint in typing.get_type_hints(type(options)).items():
        value = getattr(options, name)
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if not any(_is_of(value, kind) for kind in kinds):
            named = [_name(kind) for kind in kinds if kind is not types.NoneType]
            raise UnsupportedOptionError(
                f"{name} is {value!r:.40}, of type {type(value).__name__}; pass {' or '.join(named)}."
            )


def _is_of(value: object, kind: Any) -> bool:
    if typing.get_origin(kind) is Sequence:
        (inner,) = typing.get_args(kind)
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_is_of(each, inner) for each in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is Sequence:
        return f"a sequence of {_name(typing.get_args(kind)[0])}"
    return f"{'an' if kind is int else 'a'} {kind.__name__}"
