"""An artifact that is replaced while it is read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import ArtifactReplacedError
from ..files.held_folder import HeldFolder

__all__ = ["again_if_replaced", "unchanged"]

_T = TypeVar("_T")


@contextlib.contextmanager
def unchanged(held: HeldFolder) -> Iterator[None]:
    """Raise at the block's end, whatever it has raised, if a file that the folder remembers is another one.

    Raises:
        ArtifactReplacedError: It is.
    """
    try:
        yield
    except Exception:
        held.check()  # Where the folder was replaced, what failed may have been of another artifact.
        raise
    held.check()


def again_if_replaced(read: Callable[[], _T]) -> _T:
    """What ``read`` gives, which opens an artifact; if it is replaced meanwhile, of the new one, once.

    Raises:
        ArtifactReplacedError: It was replaced twice.
    """
    try:
        return read()
    except ArtifactReplacedError:
        return read()
