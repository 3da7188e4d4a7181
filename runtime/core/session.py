"""What the engine and the mirror need of a runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from exaone_export.errors import ClosedError
from exaone_export.planning.prefill import PREFILL_CHUNKS

if TYPE_CHECKING:
    from .buffers import CacheBuffers, CacheGeometry
    from .cancellation import Cancellation
    from .steps import Step

__all__ = ["HomeProcess", "Session", "prefill_chunk"]


class Session(Protocol):
    """The interface between generation and a runtime. One step runs at a time; a second thread waits.

    Legend: B batch, K positions whose outputs are wanted.

    Attributes:
        geometry: Of the caches that the graph takes.
        vocab_size: Of the tokens.
        output_shapes: By the name of what the graph gives beside its caches, the shape of it for one token.
        output_dtype: Of all of them, a key of `exaone_export.model.dtypes.DTYPES`.
        longest_step: The most columns that a step may have; None for no limit.
        ragged_steps: Whether the rows of a step may bring different numbers of tokens.
        max_batch: The most rows that a step may have; None for no limit.
    """

    geometry: CacheGeometry
    vocab_size: int
    output_shapes: Mapping[str, tuple[int, ...]]
    output_dtype: str
    longest_step: int | None
    ragged_steps: bool
    max_batch: int | None

    def step(self, step: Step, buffers: CacheBuffers, cancellation: Cancellation | None = None) -> tuple[Any, ...]:
        """Run one step and leave the new state in ``buffers``.

        Where the graph only appends, nothing is evicted: `RowCaches.advance` does that.

        Args:
            step: Its tokens, and the tokens that rows hold before it.
            buffers: The caches.
            cancellation: Checked before the step, and given a way to end it if the runtime has one.

        Returns:
            In the order of ``output_shapes``, each ``[B, K, …]`` in the caches' memory: numpy's arrays on the CPU,
            PyTorch's tensors on a GPU. The caller may keep them.

        Raises:
            CancelledError: The step was not begun, or was ended; what the caches hold is then unspecified.
            ClosedError: It was closed, or opened in the process that this one was forked from.
        """
        ...

    def close(self) -> None:
        """Release the runtime."""
        ...


class HomeProcess:
    """The process that something with threads was opened in; one that is forked from it has its locks, and no threads.

    Args:
        what: Was opened, as the subject of a sentence.
    """

    def __init__(self, what: str) -> None:
        self._what, self._id = what, os.getpid()

    @property
    def is_elsewhere(self) -> bool:
        """Whether this process was forked from it."""
        return os.getpid() != self._id

    def check(self) -> None:
        """Raise in another process; call it before a lock is taken, which may be held there for ever.

        Raises:
            ClosedError: This process was forked.
        """
        if self.is_elsewhere:
            raise ClosedError(
                f"{self._what} runs in the process that this one was forked from; open the artifact in this process, "
                f"or start processes by multiprocessing's spawn."
            )


def prefill_chunk(session: Session, asked: int | None) -> int:
    """Tokens of a prompt that one step takes at most: as many as are asked for, or by default those of the device.

    Raises:
        ValueError: ``asked`` is below 1.
    """
    chunk = PREFILL_CHUNKS[session.geometry.device] if asked is None else asked
    if chunk < 1:
        raise ValueError(f"prefill_chunk_size is {chunk}; it must be at least 1.")
    return chunk
