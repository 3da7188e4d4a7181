"""One session per runtime: bind the buffers, run a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from ..core.buffers import CacheBuffers, CacheGeometry
    from ..core.cancellation import Cancellation

__all__ = ["Session"]


class Session(Protocol):
    """The interface between generation and a runtime. One step runs at a time; a second thread waits.

    Legend: B batch, W columns of the step, K positions whose outputs are wanted.

    Attributes:
        geometry: Of the caches that the graph takes.
        vocab_size: Of the tokens.
        output_shapes: By the name of what the graph gives beside its caches, the shape of it for one token.
        output_dtype: Of all of them.
        longest_step: The most columns that a step may have; None for no limit.
        ragged_steps: Whether the rows of a step may bring different numbers of tokens.
        max_batch: The most rows that a step may have; None for no limit.
    """

    geometry: CacheGeometry
    vocab_size: int
    output_shapes: Mapping[str, tuple[int, ...]]
    output_dtype: torch.dtype
    longest_step: int | None
    ragged_steps: bool
    max_batch: int | None

    def step(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        total_lengths: torch.Tensor,
        logits_offsets: torch.Tensor,
        buffers: CacheBuffers,
        cancellation: Cancellation | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Run one step and leave the new state in ``buffers``.

        Args:
            input_ids: ``[B, W]`` int64 on the host, like all lengths; a row's tokens come first.
            position_ids: ``[B, W]`` int64, -1 for the padding behind them.
            total_lengths: ``[B]`` int64, tokens that a row holds after the step, at least 1.
            logits_offsets: ``[K]`` int64, positions counted back from a row's last token of this step.
            buffers: The caches.
            cancellation: Checked before the step, and given a way to end it if the runtime has one.

        Returns:
            In the order of ``output_shapes``, each ``[B, K, …]`` on the caches' device; the caller may keep them.

        Raises:
            CancelledError: The step was not begun, or was ended; what the caches hold is then unspecified.
        """
        ...

    def close(self) -> None:
        """Release the runtime."""
        ...
