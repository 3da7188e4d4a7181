"""ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from exaone_export.errors import ArtifactError
from exaone_export.model.dtypes import DTYPES, FLOATS
from exaone_export.targets.cache_layout import PAST, PRESENT, CacheLayout, cache_names
from exaone_export.targets.target import get_target

from ..core.buffers import CacheBuffers, CacheGeometry
from ..core.cancellation import Cancellation, run_interruptibly
from ..core.eviction import evict_behind_step
from .mapped_tables import MappedTables
from .onnxruntime_loading import load_graph
from .session_stream import SessionStream
from .step_tensors import make_outputs, on_device

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact
    from exaone_export.model.spec import ModelSpec

# By ONNX Runtime's name of a type, PyTorch's; and the number by which it is bound.
_DTYPES = {DTYPES[name].ort_name: getattr(torch, name) for name in FLOATS}
_CACHE_DTYPES = _DTYPES | {DTYPES["int8"].ort_name: torch.int8}
_ELEMENT_TYPES = {getattr(torch, name): DTYPES[name].onnx for name in (*FLOATS, "int8", "int64")}
_SOMEWHERE = torch.zeros(1)


class OnnxRuntimeSession:
    """A graph of any target, loaded; on the CPU also the graph that a TensorRT engine is made from.

    See `exaone_export.runtime.sessions.Session`; `ort-cuda`'s decode steps are those of
    `exaone_export.runtime.sessions.cuda_graphs.CudaGraphSession`.

    Past and present are bound to a cache's buffers once, by address; a step copies nothing of them. Custom-operator
    libraries are never loaded.

    Args:
        artifact: An opened artifact.
        threads: Threads that one operator may use on the CPU; by default the physical cores available to the process.

    Attributes:
        geometry: Of the caches that the graph takes.
        vocab_size: Of the tokens.
        output_shapes: By the name of what the graph gives beside its caches, the shape of it for one token.
        output_dtype: Of all of them.
        longest_step: The most columns that a step may have; None for no limit.
        ragged_steps: Whether the rows of a step may bring different numbers of tokens.
        max_batch: None, there is no limit.

    Raises:
        ArtifactError: The graph does not have the inputs of the manifest's cache layout.
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime is too old, there is no GPU for it, or it has no kernels for the graph's precision.
    """

    def __init__(self, artifact: Artifact, *, threads: int | None = None) -> None:
        target = get_target(artifact.manifest.target)
        device = target.provider.device
        self._stream = SessionStream(torch.device(device))
        self._session = load_graph(artifact, threads, self._stream)
        self._tables = MappedTables(artifact.model_path.with_name(f"{artifact.model_path.name}.data"))
        layout = CacheLayout.from_dict(artifact.manifest.cache)
        inputs = {value.name: value for value in self._session.get_inputs()}
        self._past, self._present = (cache_names(prefix, len(layout.layers)) for prefix in (PAST, PRESENT))
        if any(name not in inputs for name in self._past):
            raise ArtifactError(
                "the graph does not take the caches that its manifest describes; export the model again."
            )
        output_dtype = _check_shapes(self._session, self._past, self._present, artifact.spec)
        _, heads, _, head_dim = inputs[self._past[0]].shape
        dtype = _CACHE_DTYPES[inputs[self._past[0]].type]
        finite_rows = (
            target.appends or device != "cpu"
        )  # not tested: whether the GPU's kernels ignore NaN in masked rows
        self.geometry = CacheGeometry(layout, heads, head_dim, dtype, target.in_place, device, finite_rows)
        self._mask_bounds_keys, self.longest_step = target.appends, layout.longest_step
        self.ragged_steps = target.ragged_steps
        self.max_batch: int | None = None
        self.vocab_size: int = artifact.spec.vocab_size
        self.output_shapes: Mapping[str, tuple[int, ...]] = artifact.spec.output_shapes
        self.output_dtype = output_dtype
        # A cache outlives many steps, and its buffers outlive it: what is bound to them goes with them.
        self._bindings: weakref.WeakKeyDictionary[CacheBuffers, list[Any]] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the graph and its weights; a later step raises."""
        self._stream.synchronize()
        self._bindings.clear()
        self._session = None

    def step(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        total_lengths: torch.Tensor,
        logits_offsets: torch.Tensor,
        buffers: CacheBuffers,
        cancellation: Cancellation | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Run one step; see `exaone_export.runtime.sessions.Session.step`."""
        with self._lock:
            if self._session is None:
                raise RuntimeError("the session is closed; open the artifact again.")
            outputs = self._step(input_ids, position_ids, total_lengths, logits_offsets, buffers, cancellation)
            buffers.turn()
            evict_behind_step(buffers, self.geometry.layout, position_ids, total_lengths)
        return outputs

    def _step(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        total_lengths: torch.Tensor,
        logits_offsets: torch.Tensor,
        buffers: CacheBuffers,
        cancellation: Cancellation | None,
    ) -> tuple[torch.Tensor, ...]:
        """The step's outputs."""
        # Fresh tensors every time: they are the caller's, and the allocator hands the same pages out again.
        device = torch.device(self.geometry.device)
        outputs = make_outputs(
            self.output_shapes, input_ids.shape[0], logits_offsets.shape[0], self.output_dtype, device
        )
        binding = self._binding(buffers)
        step = {
            "input_ids": input_ids,
            "attention_mask": self._mask(total_lengths),
            "position_ids": position_ids,
            "logits_to_keep": logits_offsets,
        }
        with self._stream.ordered():
            inputs = on_device(step, device)
            for name, tensor in inputs.items():
                bind(binding.bind_input, name, tensor)
            for name, tensor in outputs.items():
                bind(binding.bind_output, name, tensor)
            self._run(binding, self._run_options(), cancellation, long=input_ids.shape[1] > 1)
        self._tables.release()
        return tuple(outputs.values())

    def _run(self, binding: Any, options: Any, cancellation: Cancellation | None, *, long: bool) -> None:
        """Run what is bound; ``long`` steps on the CPU can be interrupted."""

        def run() -> None:
            self._session.run_with_iobinding(binding, options)

        def end() -> None:
            options.terminate = True

        with contextlib.nullcontext() if cancellation is None else cancellation.step(end):
            if long and self.geometry.device == "cpu":
                run_interruptibly(run, end)
            else:
                run()

    def _run_options(self) -> Any:
        import onnxruntime

        return onnxruntime.RunOptions()

    def _mask(self, total_lengths: torch.Tensor) -> torch.Tensor:
        """``[B, T]``, whose sum is the number of tokens that each row holds."""
        if self._mask_bounds_keys:
            return (torch.arange(int(total_lengths.max())) < total_lengths[:, None]).to(torch.int64)
        # Such a graph only sums the mask, so one column with the count equals a column for every token.
        return total_lengths[:, None]

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
            bind(binding.bind_input, name, tensor)
        for name, tensor in zip(self._present, present, strict=True):
            bind(binding.bind_output, name, tensor)
        return binding


def _check_shapes(session: Any, past: Sequence[str], present: Sequence[str], spec: ModelSpec) -> torch.dtype:
    """The type of the head's outputs.

    Raises:
        ArtifactError: Caches or outputs do not have the model's shapes, which buffers are made of and bound by address.
    """
    values = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    cache_type = values[past[0]].type
    first = values.get(next(iter(spec.output_shapes)))
    output_type = None if first is None else first.type
    cache: tuple[int | None, ...] = (spec.num_key_value_heads, None, spec.head_dim)
    wanted = [(name, cache, cache_type, _CACHE_DTYPES) for name in (*past, *present)]
    wanted += [(name, (None, *shape), output_type, _DTYPES) for name, shape in spec.output_shapes.items()]
    for name, shape, kind, known in wanted:
        value = values.get(name)
        if (
            value is None
            or value.type != kind
            or kind not in known
            or len(value.shape) != 1 + len(shape)
            or any(size not in (None, found) for size, found in zip(shape, value.shape[1:], strict=True))
        ):
            raise ArtifactError(f"the graph's {name} is not that of its manifest's model; export the model again.")
    return _DTYPES[str(output_type)]


def bind(call: Any, name: str, tensor: torch.Tensor) -> None:
    """Hand a tensor's address to ``bind_input`` or ``bind_output`` of a binding."""
    assert tensor.is_contiguous()
    # An empty tensor has no address, and ONNX Runtime wants one that is not null.
    call(
        name,
        tensor.device.type,
        0,
        _ELEMENT_TYPES[tensor.dtype],
        tensor.shape,
        tensor.data_ptr() or _SOMEWHERE.data_ptr(),
    )
