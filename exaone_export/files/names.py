"""File names that a manifest or a checkpoint's index gives: they may only name files beside it."""

from __future__ import annotations

__all__ = ["is_plain_name"]

_MAX_BYTES = 255  # The longest name of the common file systems.


def is_plain_name(name: object) -> bool:
    r"""Whether ``name`` can only mean a visible file directly inside the folder that it is joined to.

    Separators of any system, ``..``, hidden names, control characters (NUL among them) and undecodable bytes are out.
    """
    return (
        isinstance(name, str)
        and 0 < len(name.encode(errors="replace")) <= _MAX_BYTES
        and not name.startswith(".")
        and not set(name) & set("/\\:")
        and name.isprintable()
    )
