"""What lives in one process: an open model, and the answers that it generates."""

from __future__ import annotations

from typing import ClassVar, NoReturn, Self, SupportsIndex

from exaone_export.errors import CopyError

__all__ = ["OneProcess"]


class OneProcess:
    """Base of what cannot be pickled, such as to reach another process, and not be copied with what it holds either.

    Attributes:
        instead: What to do in place of that, as the end of a sentence.
    """

    instead: ClassVar[str] = "share it between threads, or give another process the artifact's folder to open"

    def __copy__(self) -> Self:
        """Another object with the same attributes, which shares the model."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        del protocol
        raise CopyError(
            f"the {type(self).__name__} belongs to a model that is loaded in this process, and cannot be pickled or "
            f"deep-copied; {self.instead}."
        )
