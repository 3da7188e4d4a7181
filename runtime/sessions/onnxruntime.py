"""ONNX Runtime: on the CPU, and what that has in common with an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exaone_export.errors import ArtifactError, ClosedError
from exaone_export.model.dtypes import DTYPES, FLOATS
from exaone_export.targets.cache_layout import PAST, PRESENT, CacheLayout, cache_names
from exaone_export.targets.target import get_target

from ..core.buffers import CacheBuffers, CacheGeometry
from ..core.cancellation import Cancellation, run_interruptibly
from ..core.memory import HOST, Memory
from ..core.session import HomeProcess
from ..core.steps import Step
from .mapped_weights import MappedWeights
from .onnxruntime_loading import load_graph
from .step_arrays import StepArrays

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact
    from exaone_export.model.spec import ModelSpec

    from .session_stream import SessionStream

# By ONNX Runtime's name of a type, ours.
_DTYPES = {DTYPES[name].ort_name: name for name in FLOATS}
_CACHE_DTYPES = _DTYPES | {DTYPES["int8"].ort_name: "int8"}


@dataclass
class _Bound:
    """What reads one set of a cache's buffers and writes the next, and what else is bound that comes again."""

    binding: Any
    arrays: StepArrays | None = None


class OnnxRuntimeSession:
    """A graph on the CPU, loaded: of `ort-cpu`, `onnx`, or the one that a TensorRT engine is made from.

    See `exaone_export.runtime.sessions.Session`; `ort-cuda`'s is
    `exaone_export.runtime.sessions.cuda_graphs.CudaGraphSession`.

    Past and present are bound to a cache's buffers once, by address, and so are the inputs of steps of one token; a
    step copies nothing of the caches. Custom-operator libraries are never loaded.

    Args:
        artifact: An opened artifact.
        threads: Threads that one operator may use on the CPU; by default the physical cores available to the process.
        memory: Where caches and outputs live.
        stream: On which a GPU is to work; None for the CPU.
        takes_turns: Whether the step behind one of its own may be another session's.

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

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None = None,
        memory: Memory = HOST,
        stream: SessionStream | None = None,
        takes_turns: bool = False,
    ) -> None:
        target = get_target(artifact.manifest.target)
        # On a GPU the weights are copied, and the file is not kept.
        mapped = stream is None and artifact.data_path.name in artifact.manifest.files
        self._weights = MappedWeights(artifact.data_path) if mapped else None
        self._session = load_graph(artifact, threads, self._weights, stream, takes_turns)
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
        # On a GPU it is not tested whether the kernels ignore NaN in masked rows.
        finite_rows = target.appends or memory.device != "cpu"
        self.geometry = CacheGeometry(layout, heads, head_dim, dtype, target.in_place, memory, finite_rows)
        self._mask_bounds_keys, self.longest_step = target.appends, layout.longest_step
        self.ragged_steps = target.ragged_steps
        self.max_batch: int | None = None
        self.vocab_size: int = artifact.spec.vocab_size
        self.output_shapes: Mapping[str, tuple[int, ...]] = artifact.spec.output_shapes
        self.output_dtype = output_dtype
        # A cache outlives many steps, and its buffers outlive it: what is bound to them goes with them.
        self._bindings: weakref.WeakKeyDictionary[CacheBuffers, list[_Bound]] = weakref.WeakKeyDictionary()
        self._decode_arrays: dict[int, StepArrays] = {}
        self._lock, self._home = threading.RLock(), HomeProcess("the session")

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the graph and its weights; a later step raises."""
        self._bindings.clear()
        self._decode_arrays.clear()
        self._session = self._weights = None

    def interface(self) -> list[tuple[str, str, tuple[int | str | None, ...]]]:
        """Name, type and shape of every input and output, in order; graphs of one interface can share caches."""
        values = (*self._session.get_inputs(), *self._session.get_outputs())
        return [(value.name, value.type, tuple(value.shape)) for value in values]

    def step(self, step: Step, buffers: CacheBuffers, cancellation: Cancellation | None = None) -> tuple[Any, ...]:
        """Run one step; see `exaone_export.runtime.sessions.Session.step`."""
        self._home.check()
        with self._lock:
            if self._session is None:
                raise ClosedError("the session is closed; open the artifact again.")
            outputs = self._step(step, buffers, cancellation)
            buffers.turn()
        return outputs

    def _step(self, step: Step, buffers: CacheBuffers, cancellation: Cancellation | None) -> tuple[Any, ...]:
        """The step's outputs."""
        arrays, bound = self._arrays(step.shape), self._bound(buffers)
        comes_again = arrays is self._decode_arrays.get(len(step.counts))
        arrays.fill(step)
        if bound.arrays is not arrays:
            for name, array in arrays.inputs.items():
                self._bind(bound.binding.bind_input, name, array, "int64")
            for name, array in arrays.outputs.items():
                self._bind(bound.binding.bind_output, name, array, self.output_dtype)
            bound.arrays = arrays if comes_again else None
        if self._mask_bounds_keys:
            after = step.after
            mask_BT = (np.arange(max(after)) < np.array(after)[:, None]).astype(np.int64)
            self._bind(bound.binding.bind_input, "attention_mask", mask_BT, "int64")
        self._run(bound.binding, self._run_options(), cancellation, step)
        outputs = arrays.outputs.values()
        # The caller keeps them, and the next step of the same arrays writes over them.
        return tuple(map(self.geometry.memory.copy, outputs)) if comes_again else tuple(outputs)

    def _arrays(self, shape: tuple[int, int, int]) -> StepArrays:
        """Those of steps of one token a row come again, at the same addresses."""
        rows, width, kept = shape
        if width == kept == 1 and rows in self._decode_arrays:
            return self._decode_arrays[rows]
        arrays = StepArrays(shape, self.output_shapes, self.output_dtype, self.geometry.memory)
        if width == kept == 1:
            self._decode_arrays[rows] = arrays
        return arrays

    def _run(self, binding: Any, options: Any, cancellation: Cancellation | None, step: Step) -> None:
        """Run what is bound for a step; one of several tokens can be interrupted on the CPU."""
        session, weights = self._session, self._weights  # alive until it returns, in a thread of its own too

        def run() -> None:
            session.run_with_iobinding(binding, options)
            if weights is not None:
                weights.release_after(step.input_ids.size)

        def end() -> None:
            options.terminate = True

        with contextlib.nullcontext() if cancellation is None else cancellation.step(end):
            if step.input_ids.shape[1] > 1 and self.geometry.device == "cpu":
                run_interruptibly(run, end)
            else:
                run()

    def _run_options(self, graph: int = 0) -> Any:
        """Options of a run; ``graph`` numbers the captured graph on a GPU.

        ONNX Runtime asks for the number in every run and, where it is missing, throws an error and catches it, which
        takes longer than all else that a step does outside the graph; so 0, its default, is given, too.
        """
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options

    def _bound(self, buffers: CacheBuffers) -> _Bound:
        """What reads the current set and writes the next one."""
        bindings = self._bindings.get(buffers)
        if bindings is None:
            last = len(buffers.sets) - 1
            bindings = [_Bound(self._bind_caches(past, buffers.sets[last - i])) for i, past in enumerate(buffers.sets)]
            self._bindings[buffers] = bindings
        return bindings[buffers.current]

    def _bind_caches(self, past: Sequence[Any], present: Sequence[Any]) -> Any:
        binding = self._session.io_binding()
        for name, array in zip(self._past, past, strict=True):
            self._bind(binding.bind_input, name, array, self.geometry.dtype)
        for name, array in zip(self._present, present, strict=True):
            self._bind(binding.bind_output, name, array, self.geometry.dtype)
        return binding

    def _bind(self, call: Any, name: str, array: Any, dtype: str) -> None:
        """Hand an array's address to ``bind_input`` or ``bind_output`` of a binding."""
        memory = self.geometry.memory
        call(name, memory.device, 0, DTYPES[dtype].onnx, array.shape, memory.address(array))


def _check_shapes(session: Any, past: Sequence[str], present: Sequence[str], spec: ModelSpec) -> str:
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
