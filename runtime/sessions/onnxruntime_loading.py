"""Loading a graph into ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from exaone_export.errors import ArtifactError, TargetError
from exaone_export.extras import needs_extra
from exaone_export.targets.provider import CUDA_PROVIDER, Provider
from exaone_export.targets.target import get_target

from .threads import physical_cores

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact

    from .mapped_weights import MappedWeights
    from .session_stream import SessionStream


def load_graph(
    artifact: Artifact,
    threads: int | None,
    weights: MappedWeights | None,
    stream: SessionStream | None = None,
    takes_turns: bool = False,
) -> Any:
    """An ``onnxruntime.InferenceSession`` of an artifact's graph.

    Args:
        artifact: An opened artifact.
        threads: Threads that one operator may use on the CPU; by default the physical cores available to the process.
        weights: The graph's, from where the session takes them; it must outlive the session. None for a GPU.
        stream: On which a GPU is to work; it must outlive the session. None for the CPU.
        takes_turns: Whether another session runs the step behind one of this one's: threads that wait for the next step
            of theirs, spinning, would take 50 ms of it.

    Raises:
        ArtifactError: ONNX Runtime cannot read the graph.
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime is too old, there is no GPU for it, or it has no kernels for the graph's precision.
    """
    provider = get_target(artifact.manifest.target).provider
    runtime = _onnxruntime(provider)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = physical_cores() if threads is None else threads
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # A pattern is kept for every length of a step, in memory of its own.
    options.enable_mem_pattern = False
    # Where explicit quantization of weights becomes a fused product, its inputs are not rounded.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if takes_turns:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    chosen = dict(provider.options)
    if provider.device == "cpu":
        # Weights are packed for the kernels by all threads; not tried on a GPU, where kernels pack on a stream.
        options.add_session_config_entry("session.prepack.enable_parallel", "1")
    else:
        assert stream is not None
        _check_gpu(runtime)
        chosen["user_compute_stream"] = str(stream.handle)
    with contextlib.ExitStack() as while_loading:
        if weights is not None:
            weights.give(options)
            while_loading.enter_context(weights.releasing())
        session = _load(runtime, artifact, options, (provider.name, chosen))
    if provider.name not in session.get_providers():
        raise TargetError(
            f"ONNX Runtime {runtime.__version__} could not start {provider.name}; its message above names the CUDA "
            f"library that is missing."
        )
    return session


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, which tells its maker nothing unless ``ORT_DISABLE_TELEMETRY`` is 0.

    From 1.29 on its packages write an identifier of the user to ``~/.cache/Microsoft`` when they are imported, and send
    it with the names and the hashes of models.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _onnxruntime(provider: Provider) -> ModuleType:
    with needs_extra("the ONNX Runtime session", "onnxruntime", extra=provider.extra):
        onnxruntime = import_onnxruntime()
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < provider.minimum_version:
        floor = ".".join(map(str, provider.minimum_version))
        raise TargetError(
            f"onnxruntime is {onnxruntime.__version__} and must be {floor} or later, because earlier ones "
            f"{provider.reason}; run: pip install '{provider.package}>={floor}'."
        )
    return onnxruntime


def _check_gpu(runtime: ModuleType) -> None:
    import torch

    if CUDA_PROVIDER.name not in runtime.get_available_providers():
        raise TargetError(
            f"onnxruntime {runtime.__version__} is a build without CUDA; run: pip uninstall onnxruntime, then pip "
            f"install 'exaone-export[{CUDA_PROVIDER.extra}]'."
        )
    if not torch.cuda.is_available():
        raise TargetError(
            "the artifact is for an NVIDIA GPU, and PyTorch sees none here; run it on a machine that has one, or run: "
            "exaone-export export MODEL OUT --target ort-cpu."
        )
    # The CUDA libraries that PyTorch has installed serve ONNX Runtime too.
    runtime.preload_dlls()


def _load(runtime: ModuleType, artifact: Artifact, options: Any, provider: tuple[str, dict[str, str]]) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        return runtime.InferenceSession(str(artifact.graph_path), options, providers=[provider])
    except state.NotImplemented as error:
        raise TargetError(
            f"ONNX Runtime has no {artifact.manifest.precision} kernels on {provider[0]}; export with --precision "
            f"float32, or run this artifact elsewhere."
        ) from error
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.RuntimeException,
    ) as error:
        raise ArtifactError(
            f"ONNX Runtime {runtime.__version__} cannot load {artifact.model_path}; export the model again."
        ) from error
