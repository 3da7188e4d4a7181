"""PyTorch's memory, for sessions on a GPU: its allocator then knows all of the GPU's memory, and so do samplers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["TorchMemory", "as_tensor", "torch_dtype"]

# An empty tensor has no address, and runtimes want one that is not null.
_SOMEWHERE = torch.zeros(1)


@dataclass(frozen=True)
class TorchMemory:
    """A device's memory, in PyTorch's tensors; see `exaone_export.runtime.core.memory.Memory`.

    Attributes:
        device: ``"cuda"``; or ``"cpu"``, for tests without a GPU.
    """

    device: str

    def block(self, size: int, dtype: str, *, finite: bool) -> torch.Tensor:
        """See `Memory.block`."""
        make = torch.zeros if finite else torch.empty
        # It outlives the call that makes it, and what is made in inference mode cannot be written outside of it.
        with torch.inference_mode(False):
            return make(size, dtype=torch_dtype(dtype), device=self.device)

    def empty(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        """See `Memory.empty`."""
        return torch.empty(tuple(shape), dtype=torch_dtype(dtype), device=self.device)

    def copy(self, array: torch.Tensor) -> torch.Tensor:
        """See `Memory.copy`."""
        return array.clone()

    def address(self, array: torch.Tensor) -> int:
        """See `Memory.address`."""
        assert array.is_contiguous()
        return array.data_ptr() or _SOMEWHERE.data_ptr()

    def numbers(self, array: torch.Tensor, dtype: str) -> np.ndarray:
        """See `Memory.numbers`."""
        # The GPU converts faster than the host, and copies into pinned memory without a detour.
        host = torch.empty(array.shape, dtype=torch.float32, pin_memory=array.is_cuda)
        return host.copy_(array).numpy()

    def on_host(self, array: torch.Tensor) -> np.ndarray:
        """See `Memory.on_host`."""
        array = array.contiguous()
        return (array.view(torch.uint16) if array.dtype == torch.bfloat16 else array).cpu().numpy()

    def write(self, array: torch.Tensor, bits: np.ndarray) -> None:
        """See `Memory.write`."""
        tensor = torch.from_numpy(bits)
        array.copy_(tensor.view(torch.bfloat16) if array.dtype == torch.bfloat16 else tensor)


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's object of a key of `exaone_export.model.dtypes.DTYPES`."""
    found: torch.dtype = getattr(torch, name)
    return found


def as_tensor(array: Any, dtype: str) -> torch.Tensor:
    """What a session or a cache holds, as a tensor on the same memory.

    Args:
        array: A tensor, or an array of the host's memory.
        dtype: Of its numbers, which an array of bfloat16 does not tell.
    """
    if not isinstance(array, np.ndarray):
        tensor: torch.Tensor = array
        return tensor
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
