"""Loading a graph into ONNX Runtime, on the CPU or on an NVIDIA GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from exaone_export.errors import ArtifactError, MissingExtraError, TargetError
from exaone_export.targets.target import CUDA_PROVIDER, get_target

from .threads import physical_cores

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact


@dataclass(frozen=True)
class Place:
    """Where ONNX Runtime runs a graph.

    Attributes:
        provider: The execution provider.
        device: PyTorch's name of the device.
        minimum_version: The first release that runs our graphs there.
        reason: What earlier ones lack.
        extra: The extra of this package that installs it.
        package: Its name for pip.
        options: Of the provider.
    """

    provider: str
    device: str
    minimum_version: tuple[int, int]
    reason: str
    extra: str
    package: str
    options: dict[str, str] = field(default_factory=dict)


_CPU = Place("CPUExecutionProvider", "cpu", (1, 32), "have no ragged attention steps", "cpu", "onnxruntime")
_CUDA = Place(
    CUDA_PROVIDER,
    "cuda",
    (1, 31),
    "normalize no queries and keys",
    "cuda",
    "onnxruntime-gpu",
    {"enable_cuda_graph": "1"},
)


def place_of(target: str) -> Place:
    """Where graphs of ``target`` run."""
    return _CUDA if get_target(target).provider == CUDA_PROVIDER else _CPU


def load_graph(artifact: Artifact, threads: int | None) -> Any:
    """An ``onnxruntime.InferenceSession`` of an artifact's graph.

    Args:
        artifact: An opened artifact.
        threads: Threads that one operator may use on the CPU; by default the physical cores available to the process.

    Raises:
        ArtifactError: ONNX Runtime cannot read the graph.
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime is too old, there is no GPU for it, or it has no kernels for the graph's precision.
    """
    place = place_of(artifact.manifest.target)
    runtime = _onnxruntime(place)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = physical_cores() if threads is None else threads
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # A pattern is kept for every length of a step, in memory of its own.
    options.enable_mem_pattern = False
    # Where explicit quantization of weights becomes a fused product, its inputs are not rounded.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if place is _CUDA:
        _check_gpu(runtime)
    session = _load(runtime, artifact, options, place)
    if place.provider not in session.get_providers():
        raise TargetError(
            f"ONNX Runtime {runtime.__version__} could not start {place.provider}; its message above names the CUDA "
            f"library that is missing."
        )
    return session


def _onnxruntime(place: Place) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("the ONNX Runtime session", module="onnxruntime", extra=place.extra) from error
    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < place.minimum_version:
        floor = ".".join(map(str, place.minimum_version))
        raise TargetError(
            f"onnxruntime is {onnxruntime.__version__} and must be {floor} or later, because earlier ones "
            f"{place.reason}; run: pip install '{place.package}>={floor}'."
        )
    return onnxruntime


def _check_gpu(runtime: ModuleType) -> None:
    if _CUDA.provider not in runtime.get_available_providers():
        raise TargetError(
            f"onnxruntime {runtime.__version__} is a build without CUDA; run: pip uninstall onnxruntime, then pip "
            f"install 'exaone-export[{_CUDA.extra}]'."
        )
    if not torch.cuda.is_available():
        raise TargetError(
            "the artifact is for an NVIDIA GPU, and PyTorch sees none here; run it on a machine that has one, or run: "
            "exaone-export export MODEL OUT --target ort-cpu."
        )
    # The CUDA libraries that PyTorch has installed serve ONNX Runtime too.
    runtime.preload_dlls()


def _load(runtime: ModuleType, artifact: Artifact, options: Any, place: Place) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        provider = (place.provider, place.options)
        return runtime.InferenceSession(str(artifact.graph_path), options, providers=[provider])
    except state.NotImplemented as error:
        raise TargetError(
            f"ONNX Runtime has no {artifact.manifest.precision} kernels on {place.provider}; export with --precision "
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
