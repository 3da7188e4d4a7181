"""ONNX Runtime on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from exaone_export.cache_layout import CacheLayout
from exaone_export.errors import ArtifactError, MissingExtraError, TargetError
from exaone_export.runtime.buffers import CacheBuffers, CacheGeometry
from exaone_export.runtime.sessions.threads import physical_cores
from exaone_export.targets import get_target

if TYPE_CHECKING:
    from exaone_export.artifact import Artifact

MINIMUM_VERSION = (1, 32)

# ONNX Runtime's name, ours, and the number that the ONNX specification gives the type (TensorProto.DataType).
_DTYPES = {
    "tensor(float)": (torch.float32, 1),
    "tensor(float16)": (torch.float16, 10),
    "tensor(bfloat16)": (torch.bfloat16, 16),
}
_ELEMENT_TYPES = dict(_DTYPES.values()) | {torch.int64: 7}
_SOMEWHERE = torch.zeros(1)


class OnnxRuntimeSession:
    """A graph of target ``onnx`` or ``ort-cpu``, loaded.

    Past and present are bound to a cache's buffers once, by address; a step copies nothing of them. Custom-operator
    libraries are never loaded.

    Args:
        artifact: An opened artifact.
        threads: Threads that one operator may use; by default the physical cores available to the process.
        providers: Execution providers, the first one preferred.

    Attributes:
        geometry: Of the caches that the graph takes.
        vocab_size: Of the logits.
        logits_dtype: Of the logits.

    Raises:
        ArtifactError: The graph does not have the inputs that the manifest's cache layout asks for.
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime is older than 1.32, or has no kernels for the graph's precision.
    """

    def __init__(
        self, artifact: Artifact, *, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        runtime = _onnxruntime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = physical_cores() if threads is None else threads
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        self._session = _load(runtime, artifact, options, providers)
        layout = CacheLayout.from_dict(artifact.manifest.cache)
        inputs = {value.name: value for value in self._session.get_inputs()}
        names = [f"{i}.{part}" for i in range(len(layout.layers)) for part in ("key", "value")]
        self._past = [f"past_key_values.{name}" for name in names]
        self._present = [f"present.{name}" for name in names]
        if any(name not in inputs for name in self._past):
            raise ArtifactError(
                "the graph does not take the caches that its manifest describes; export the model again."
            )
        _, heads, _, head_dim = inputs[self._past[0]].shape
        dtype, _ = _DTYPES[inputs[self._past[0]].type]
        self.geometry = CacheGeometry(layout, heads, head_dim, dtype, get_target(artifact.manifest.target).in_place)
        self.vocab_size: int = artifact.spec.vocab_size
        self.logits_dtype, _ = _DTYPES[self._session.get_outputs()[0].type]
        # A cache outlives many steps, and its buffers outlive it: what is bound to them goes with them.
        self._bindings: weakref.WeakKeyDictionary[CacheBuffers, list[Any]] = weakref.WeakKeyDictionary()

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the graph and its weights; a later step raises."""
        self._bindings.clear()
        self._session = None

    def step(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        total_lengths: torch.Tensor,
        logits_offsets: torch.Tensor,
        buffers: CacheBuffers,
    ) -> torch.Tensor:
        """Run one step; see `exaone_export.runtime.sessions.Session.step`."""
        if self._session is None:
            raise RuntimeError("the session is closed; open the artifact again.")
        # A fresh tensor every time: it is the caller's, and the allocator hands the same pages out again.
        logits = torch.empty(input_ids.shape[0], logits_offsets.shape[0], self.vocab_size, dtype=self.logits_dtype)
        binding = self._binding(buffers)
        # The graph only sums the mask, so one column with the count says what a column for every token would.
        step = (
            ("input_ids", input_ids),
            ("attention_mask", total_lengths[:, None]),
            ("position_ids", position_ids),
            ("logits_to_keep", logits_offsets),
        )
        for name, tensor in step:
            _bind(binding.bind_input, name, tensor)
        _bind(binding.bind_output, "logits", logits)
        self._session.run_with_iobinding(binding)
        buffers.turn()
        return logits

    def _binding(self, buffers: CacheBuffers) -> Any:
        """The binding that reads the current set and writes the next one."""
        bindings = self._bindings.get(buffers)
        if bindings is None:
            last = len(buffers.sets) - 1
            bindings = [self._bind_caches(past, buffers.sets[last - i]) for i, past in enumerate(buffers.sets)]
            self._bindings[buffers] = bindings
        return bindings[buffers.current]

    def _bind_caches(self, past: Sequence[torch.Tensor], present: Sequence[torch.Tensor]) -> Any:
        binding = self._session.io_binding()
        for name, tensor in zip(self._past, past, strict=True):
            _bind(binding.bind_input, name, tensor)
        for name, tensor in zip(self._present, present, strict=True):
            _bind(binding.bind_output, name, tensor)
        return binding


def _bind(bind: Any, name: str, tensor: torch.Tensor) -> None:
    assert tensor.is_contiguous()
    # An empty tensor has no address, and ONNX Runtime wants one that is not null.
    bind(name, "cpu", 0, _ELEMENT_TYPES[tensor.dtype], tensor.shape, tensor.data_ptr() or _SOMEWHERE.data_ptr())


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("the ONNX Runtime session", module="onnxruntime", extra="cpu") from error
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < MINIMUM_VERSION:
        raise TargetError(
            f"onnxruntime is {onnxruntime.__version__} and must be 1.32 or later, because earlier ones have no ragged "
            f"attention steps; run: pip install 'onnxruntime>=1.32'."
        )
    return onnxruntime


def _load(runtime: ModuleType, artifact: Artifact, options: Any, providers: Sequence[str]) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        return runtime.InferenceSession(str(artifact.model_path), options, providers=list(providers))
    except state.NotImplemented as error:
        raise TargetError(
            f"ONNX Runtime has no {artifact.manifest.precision} kernels on {providers[0]}; export with --precision "
            f"float32, or run this artifact elsewhere."
        ) from error
    except (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile) as error:
        raise ArtifactError(
            f"ONNX Runtime {runtime.__version__} cannot load {artifact.model_path}; export the model again."
        ) from error
