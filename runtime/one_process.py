"""What lives in one process: an open model, and the answers that it generates."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from exaone_export.errors import CopyError

__all__ = ["OneProcess"]


class OneProcess:
    """Base of what cannot be pickled, such as to reach another process, and not be copied either."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        del protocol
        raise CopyError(
            f"the {type(self).__name__} belongs to a model that is loaded in this process, and cannot be pickled or "
            f"copied; share it between threads, or give another process the artifact's folder to open."
        )
