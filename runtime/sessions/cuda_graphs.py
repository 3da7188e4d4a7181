"""ONNX Runtime on an NVIDIA GPU, with decode steps as captured CUDA graphs.

What a graph is bound to, tried with onnxruntime-gpu 1.31.1:

- It replays what was captured under its number (``gpu_graph_id``) and looks at no binding, so that every set of caches
  has a number of its own, and inputs and logits lie at addresses that last.
- The call that captures runs the step three times. A window's cache would evict three times, so a graph is captured
  with a step that evicts nothing, and the one row that this writes is put back.
- It belongs to the thread that captured it.
- The number of keys is fixed with it: the mask is as wide as the cache is long, and the kernels find every row's length
  on the device. A step of more than one token wants the exact number and is not captured.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from exaone_export.targets.target import get_target

from ..core.buffers import CacheBuffers
from ..core.cancellation import Cancellation
from ..core.steps import Step
from .onnxruntime import OnnxRuntimeSession
from .session_stream import SessionStream
from .step_tensors import StepTensorPool, StepTensors, on_device
from .torch_memory import TorchMemory

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact

# ONNX Runtime's numbers: nothing is captured, and the first one of ours.
_UNCAPTURED, _FIRST = -1, 1
_MOST_GRAPHS = 32
"""Sets of caches that get a graph, since ONNX Runtime lets none go before its thread ends; others run uncaptured."""


class _Decode(NamedTuple):
    """What a decode step over one set of caches is run with."""

    tensors: StepTensors
    binding: Any
    number: int
    options: Any


class _Captured(threading.local):
    """Numbers that this thread has captured; they go with it, as the graphs do."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()


class CudaGraphSession(OnnxRuntimeSession):
    """A graph of `ort-cuda`, loaded; see `exaone_export.runtime.sessions.Session`.

    Args:
        artifact: An opened artifact.
        threads: Threads that one operator may use on the CPU.

    Raises:
        ArtifactError: The graph cannot be captured, or does not take the caches of its manifest.
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime is too old, or there is no GPU for it.
    """

    def __init__(self, artifact: Artifact, *, threads: int | None = None) -> None:
        memory = TorchMemory(get_target(artifact.manifest.target).provider.device)
        self._device = torch.device(memory.device)
        self._stream = SessionStream(self._device)
        super().__init__(artifact, threads=threads, memory=memory, stream=self._stream)
        self._tensors = StepTensorPool(self.output_shapes, self.output_dtype, memory)
        self._numbers: dict[tuple[int, ...], int] = {}
        self._decode: weakref.WeakKeyDictionary[CacheBuffers, _Decode] = weakref.WeakKeyDictionary()
        self._captured = _Captured()

    def close(self) -> None:
        """Release the graph and its weights; a later step raises."""
        self._stream.synchronize()
        super().close()
        self._decode.clear()
        self._tensors.clear()

    def _step(self, step: Step, buffers: CacheBuffers, cancellation: Cancellation | None) -> tuple[torch.Tensor, ...]:
        rows, width, kept = step.shape
        memory = self.geometry.memory
        outputs = {
            name: memory.empty((rows, kept, *shape), self.output_dtype) for name, shape in self.output_shapes.items()
        }
        if width == kept == 1:
            self._run_decode(step, buffers, outputs, cancellation)
        else:
            self._run_uncaptured(step, buffers, outputs, cancellation)
        return tuple(outputs.values())

    def _run_uncaptured(
        self,
        step: Step,
        buffers: CacheBuffers,
        outputs: dict[str, torch.Tensor],
        cancellation: Cancellation | None,
    ) -> None:
        # The mask's number of columns is the longest row's length, and its first column holds every row's.
        mask_BT = np.zeros((len(step.counts), max(step.after)), np.int64)
        mask_BT[:, 0] = step.after
        arrays = {
            "input_ids": step.input_ids,
            "attention_mask": mask_BT,
            "position_ids": step.positions(),
            "logits_to_keep": np.array(step.kept, np.int64),
        }
        binding = self._bound(buffers).binding
        with self._stream.ordered():
            inputs = on_device(arrays, self._device)
            for name, tensor in inputs.items():
                self._bind(binding.bind_input, name, tensor, "int64")
            for name, tensor in outputs.items():
                self._bind(binding.bind_output, name, tensor, self.output_dtype)
            self._run(binding, self._run_options(), cancellation, step)

    def _run_decode(
        self,
        step: Step,
        buffers: CacheBuffers,
        outputs: dict[str, torch.Tensor],
        cancellation: Cancellation | None,
    ) -> None:
        bound = self._decode.get(buffers)
        if bound is None:
            bound = self._decode[buffers] = self._bind_decode(buffers)
        with self._stream.ordered():
            if bound.number != _UNCAPTURED and bound.number not in self._captured.numbers:
                self._capture(bound, buffers)
            bound.tensors.fill(step)
            bound.tensors.spread_totals()
            # Nothing to end: by the time that somebody asks for it, the step is on its way.
            with contextlib.nullcontext() if cancellation is None else cancellation.step(_nothing):
                self._session.run_with_iobinding(bound.binding, bound.options)
            for name, output in outputs.items():
                output.copy_(bound.tensors.outputs[name])

    def _bind_decode(self, buffers: CacheBuffers) -> _Decode:
        """All of one set of caches' decode steps, which are at the same addresses every time."""
        tensors = self._tensors.take((buffers.batch, 1, self.geometry.layout.max_length, 1))
        binding = self._bind_caches(buffers.tensors, buffers.tensors)
        for name, tensor in tensors.inputs.items():
            self._bind(binding.bind_input, name, tensor, "int64")
        for name, tensor in tensors.outputs.items():
            self._bind(binding.bind_output, name, tensor, self.output_dtype)
        number = self._number(buffers)
        return _Decode(tensors, binding, number, self._run_options(number))

    def _capture(self, bound: _Decode, buffers: CacheBuffers) -> None:
        """Capture the decode step of one set of caches, and leave the caches as they are."""
        tensors = bound.tensors
        first_rows = [cache[:, :, :1].clone() for cache in buffers.tensors]
        rows = tensors.shape[0]
        tensors.fill(Step(np.zeros((rows, 1), np.int64), [0] * rows, [1] * rows))
        tensors.spread_totals()
        try:
            self._session.run_with_iobinding(bound.binding, bound.options)
        finally:
            for cache, row in zip(buffers.tensors, first_rows, strict=True):
                cache[:, :, :1] = row
        self._captured.numbers.add(bound.number)

    def _number(self, buffers: CacheBuffers) -> int:
        """The graph of these caches, or of earlier ones at the same addresses."""
        addresses = tuple(cache.data_ptr() for cache in buffers.tensors)
        number = self._numbers.get((buffers.batch, *addresses), _UNCAPTURED)
        if number == _UNCAPTURED and len(self._numbers) < _MOST_GRAPHS:
            number = self._numbers[(buffers.batch, *addresses)] = _FIRST + len(self._numbers)
        return number

    def _run_options(self, graph: int = _UNCAPTURED) -> Any:
        options = super()._run_options(graph)
        # What reads the logits is queued behind the step, see `SessionStream`.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options


def _nothing() -> None:
    """Ends nothing."""
