"""A step's inputs and its outputs at addresses that last, for runtimes that are told addresses once.

Legend: B batch, W columns of the step, T columns of the mask, K positions whose outputs are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
import torch

from ..core.steps import Step
from .torch_memory import TorchMemory

Shape = tuple[int, int, int, int]
"""B, W, T and K."""

# TensorRT wants every address to be a multiple of 256 bytes.
_INT64_IN_256_BYTES = 32


def mask_columns(tokens: int, max_length: int) -> int:
    """Columns of a mask for rows of up to ``tokens`` tokens: a little more than that, so that shapes repeat.

    Four sizes an octave, so at most a quarter more than is needed.
    """
    step = max(1 << max((tokens - 1).bit_length() - 3, 0), 64)
    return min(-(-tokens // step) * step, max_length)


def on_device(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """int64 arrays of the host on ``device``, by one copy that nothing waits for."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if device.type == "cpu":
        return tensors
    ends = list(
        accumulate(-(-tensor.numel() // _INT64_IN_256_BYTES) * _INT64_IN_256_BYTES for tensor in tensors.values())
    )
    # PyTorch keeps the block from its next use until the copy has read it.
    host = torch.empty(ends[-1], dtype=torch.int64, pin_memory=True)
    starts = [0, *ends[:-1]]
    for start, tensor in zip(starts, tensors.values(), strict=True):
        host[start : start + tensor.numel()] = tensor.flatten()
    block = host.to(device, non_blocking=True)
    return {
        name: block[start : start + tensor.numel()].view(tensor.shape)
        for start, (name, tensor) in zip(starts, tensors.items(), strict=True)
    }


class StepTensors:
    """Inputs and outputs of all steps of one shape.

    All inputs lie in one block, so that a step needs one copy to the device.

    Attributes:
        shape: As given.
        inputs: By the graph's names.
        outputs: By the graph's names, ``[B, K, …]``.
    """

    def __init__(
        self, shape: Shape, output_shapes: Mapping[str, tuple[int, ...]], dtype: str, memory: TorchMemory
    ) -> None:
        self.shape = shape
        device = torch.device(memory.device)
        B, W, T, K = shape
        stride = -(-max(B * W, K, B) // _INT64_IN_256_BYTES) * _INT64_IN_256_BYTES
        on_gpu = device.type == "cuda"
        # They outlive the call that makes them, and what is made in inference mode cannot be written outside of it.
        with torch.inference_mode(False):
            self._host = torch.zeros(4, stride, dtype=torch.int64, pin_memory=on_gpu)
            self._rows = self._host.numpy()
            # One row's mask begins with its length, so that the length is copied to where the graph reads it.
            block = torch.zeros(3 * stride + max(stride, T), dtype=torch.int64, device=device)
            self._device = block[: 4 * stride].view(4, stride)
            self._copied = torch.cuda.Event() if on_gpu else None
            ids, positions, kept, self._totals = self._device
            self.inputs = {
                "input_ids": ids[: B * W].view(B, W),
                # The graph sums a row, so its first column can hold the count and the others nothing.
                "attention_mask": (
                    block[3 * stride : 3 * stride + T].view(1, T)
                    if B == 1
                    else torch.zeros(B, T, dtype=torch.int64, device=device)
                ),
                "position_ids": positions[: B * W].view(B, W),
                "logits_to_keep": kept[:K],
            }
            self.outputs = {name: memory.empty((B, K, *size), dtype) for name, size in output_shapes.items()}

    def fill(self, step: Step) -> None:
        """Copy a step's inputs to the device, without waiting for it."""
        if self._copied is not None:
            # The copy before this one reads the same host memory.
            self._copied.synchronize()
        B, W, _, K = self.shape
        ids, positions, kept, totals = self._rows
        ids[: B * W], kept[:K], totals[:B] = step.input_ids.reshape(-1), step.kept, step.after
        step.write_positions(positions[: B * W].reshape(B, W))
        self._device.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def spread_totals(self) -> None:
        """Put the rows' lengths into the mask, on the device."""
        mask = self.inputs["attention_mask"]
        if len(mask) > 1:
            mask[:, 0] = self._totals[: len(mask)]


class StepTensorPool:
    """Those of every shape of a decode step, which are a few and come again, and the latest of any other step.

    Args:
        output_shapes: By the name of an output, the shape of it for one token.
        dtype: Of the outputs.
        memory: Where inputs and outputs live.
    """

    def __init__(self, output_shapes: Mapping[str, tuple[int, ...]], dtype: str, memory: TorchMemory) -> None:
        self._made_with = (output_shapes, dtype, memory)
        self._decode: dict[Shape, StepTensors] = {}
        self._other: StepTensors | None = None

    def take(self, shape: Shape) -> StepTensors:
        """Tensors of ``shape``; those of a step of one token and its outputs keep their addresses."""
        _, width, _, kept = shape
        decodes = width == kept == 1
        known = self._decode.get(shape) if decodes else self._other
        if known is not None and known.shape == shape:
            return known
        tensors = StepTensors(shape, *self._made_with)
        if decodes:
            self._decode[shape] = tensors
        else:
            self._other = tensors
        return tensors

    def clear(self) -> None:
        """Let all of them go."""
        self._decode.clear()
        self._other = None
