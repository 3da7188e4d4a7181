"""A connection to a Ray cluster: that of ``RAY_ADDRESS``, or one of this machine alone that ends with the block."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from exaone_export.errors import UnsupportedOptionError

__all__ = ["connected"]

_OBJECT_BYTES = 256 << 20
"""What processes hand to each other; the default would be a third of the machine's memory."""


@contextmanager
def connected(cpus: int | None = None) -> Iterator[None]:
    """Use Ray inside the block.

    Args:
        cpus: That processes of a cluster of this machine alone may claim (default: the machine's).

    Raises:
        UnsupportedOptionError: There is no cluster at ``RAY_ADDRESS``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    address = os.environ.get("RAY_ADDRESS", "local")
    local = {"num_cpus": cpus, "object_store_memory": _OBJECT_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError) as cause:
        raise UnsupportedOptionError(
            f"there is no Ray cluster at {address!r:.100}, the value of RAY_ADDRESS; run ray start, or unset it."
        ) from cause
    try:
        yield
    finally:
        ray.shutdown()
