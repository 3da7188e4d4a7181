"""A session's own stream on an NVIDIA GPU, in order with the streams of its callers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch


class SessionStream:
    """The stream on which a runtime and PyTorch work by turns, so that the host waits for neither.

    Args:
        device: Where the session's buffers live; what is not a GPU needs no order.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @functools.cached_property
    def stream(self) -> torch.cuda.Stream | None:
        """PyTorch's object, made when it is first used; None where there are no streams."""
        return torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    @property
    def handle(self) -> int:
        """What the runtime is told; 0 where there are no streams."""
        return 0 if self.stream is None else self.stream.cuda_stream

    @contextlib.contextmanager
    def ordered(self) -> Iterator[None]:
        """Work on this stream, after what the caller has queued and before what it queues next.

        The caller's tensors may be read and written inside, and its memory may go back to PyTorch's allocator behind
        it: what reuses it is queued behind this work. What is allocated inside must not leave.
        """
        if self.stream is None:
            yield
            return
        callers = torch.cuda.current_stream(self._device)
        self.stream.wait_stream(callers)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            callers.wait_stream(self.stream)

    def synchronize(self) -> None:
        """Wait for all work on this stream."""
        if self.stream is not None:
            self.stream.synchronize()
