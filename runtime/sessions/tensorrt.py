"""A TensorRT engine, on the GPU that PyTorch uses.

Memory and streams are PyTorch's: it is there anyway, its allocator then knows all of the GPU's memory, and a sampler
finds the logits where it works.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from exaone_export.errors import ClosedError
from exaone_export.model.dtypes import DTYPES, FLOATS
from exaone_export.targets.cache_layout import PAST, PRESENT, CacheLayout, cache_names
from exaone_export.targets.engine import DECODE, PREFILL

from ..core.buffers import CacheBuffers, CacheGeometry
from ..core.cancellation import Cancellation
from ..core.session import HomeProcess
from ..core.steps import Step
from .engine_context import EngineContext
from .engine_loading import LoadedEngine, load_engine
from .session_stream import SessionStream
from .step_tensors import Shape, StepTensorPool, StepTensors, mask_columns
from .torch_memory import TorchMemory

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact

_DTYPES = {DTYPES[name].tensorrt: name for name in FLOATS}


class TensorRTSession:
    """An engine, loaded; see `exaone_export.runtime.sessions.Session`.

    Prompts run in one optimization profile and single tokens in another, each with an execution context of its own, so
    that a step changes addresses and shapes only where they differ from the last one's. A single token's step is
    captured as a CUDA graph when its shape comes for the second time.

    Args:
        artifact: An opened artifact that holds an engine.
        loaded: The engine; read from the artifact by default.
        device: Where its buffers live.

    Attributes:
        geometry: Of the caches that the engine takes.
        vocab_size: Of the tokens.
        output_shapes: By the name of what the graph gives beside its caches, the shape of it for one token.
        output_dtype: Of all of them.
        longest_step: The most columns that a step may have.
        ragged_steps: True.
        max_batch: The most rows that a step may have.

    Raises:
        ArtifactError: The engine cannot be read.
        MissingExtraError: The module that runs it is not installed.
        TargetError: There is no GPU, or the engine was built for another machine.
    """

    def __init__(self, artifact: Artifact, *, loaded: LoadedEngine | None = None, device: str = "cuda") -> None:
        assert artifact.engine is not None
        self._loaded: LoadedEngine | None = loaded if loaded is not None else load_engine(artifact)
        spec, info, engine = artifact.spec, artifact.engine, self._loaded.engine
        layout = CacheLayout.from_dict(artifact.manifest.cache)
        dtype = _DTYPES[engine.get_tensor_dtype(f"{PAST}0.key").name]
        self._memory = TorchMemory(device)
        self.geometry = CacheGeometry(
            layout, spec.num_key_value_heads, spec.head_dim, dtype, in_place=True, memory=self._memory, finite_rows=True
        )
        self.vocab_size = spec.vocab_size
        self.output_shapes: Mapping[str, tuple[int, ...]] = spec.output_shapes
        self.output_dtype = _DTYPES[engine.get_tensor_dtype(next(iter(spec.output_shapes))).name]
        self.longest_step: int | None = info.profile(PREFILL).sequence.maximum
        self.ragged_steps = True
        self.max_batch: int | None = info.profile(PREFILL).batch.maximum
        self._lock, self._home = threading.RLock(), HomeProcess("the session")
        self._stream = SessionStream(torch.device(device))
        self._past, self._present = (cache_names(prefix, len(layout.layers)) for prefix in (PAST, PRESENT))
        self._contexts = {
            name: EngineContext(self._loaded.create_context(), info.profile_index(name), self._stream.handle)
            for name in (PREFILL, DECODE)
        }
        self._tensors = StepTensorPool(self.output_shapes, self.output_dtype, self._memory)
        # A graph holds the addresses of one set of buffers.
        self._graphs: weakref.WeakKeyDictionary[CacheBuffers, dict[Shape, torch.cuda.CUDAGraph | None]] = (
            weakref.WeakKeyDictionary()
        )

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep the kernels that were compiled, and release the engine and its memory; a later step raises."""
        if self._loaded is not None:
            self._loaded.close()
        self._graphs.clear()
        self._tensors.clear()
        self._contexts.clear()
        self._loaded = None

    def step(
        self, step: Step, buffers: CacheBuffers, cancellation: Cancellation | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Run one step; see `exaone_export.runtime.sessions.Session.step`."""
        self._home.check()
        if cancellation is not None:
            cancellation.check()
        with self._lock:
            if self._loaded is None:
                raise ClosedError("the session is closed; open the artifact again.")
            return self._step(step, buffers)

    def _step(self, step: Step, buffers: CacheBuffers) -> tuple[torch.Tensor, ...]:
        rows, width, kept = step.shape
        # An engine computes the outputs of at least one position.
        shape = (rows, width, mask_columns(max(step.after), self.geometry.layout.max_length), max(kept, 1))
        outputs = {
            name: self._memory.empty((rows, kept, *size), self.output_dtype)
            for name, size in self.output_shapes.items()
        }
        with self._stream.ordered():
            tensors = self._tensors.take(shape)
            tensors.fill(step if kept else step._replace(kept=(0,)))
            if width == shape[-1] == 1:
                self._run_decode(tensors, buffers)
            else:
                self._enqueue(PREFILL, tensors, buffers)
            for name, output in outputs.items():
                output.copy_(tensors.outputs[name][:, :kept])
        return tuple(outputs.values())

    def _run_decode(self, tensors: StepTensors, buffers: CacheBuffers) -> None:
        if self._stream.stream is None or self._loaded is None or self._loaded.captures_graphs:
            self._enqueue(DECODE, tensors, buffers)
            return
        graphs = self._graphs.setdefault(buffers, {})
        if tensors.shape not in graphs:
            # TensorRT wants one step of a shape before that is captured.
            self._enqueue(DECODE, tensors, buffers)
            graphs[tensors.shape] = None
            return
        graph = graphs[tensors.shape]
        if graph is None:
            graph = graphs[tensors.shape] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream.stream, capture_error_mode="thread_local"):
                self._enqueue(DECODE, tensors, buffers)
        graph.replay()

    def _enqueue(self, name: str, tensors: StepTensors, buffers: CacheBuffers) -> None:
        tensors.spread_totals()
        context = self._contexts[name]
        context.bind(
            tensors.inputs | dict(zip(self._past, buffers.tensors, strict=True)),
            tensors.outputs | dict(zip(self._present, buffers.tensors, strict=True)),
        )
        context.enqueue(self._stream.handle)
