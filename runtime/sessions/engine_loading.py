"""Opening a TensorRT engine: its manifest is compared with this machine before anything of it is read."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from exaone_export.errors import ArtifactError, TargetError
from exaone_export.targets.flavour import FLAVOURS

from .kernel_file import KernelFile

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact


@dataclass
class LoadedEngine:
    """An engine in the GPU's memory, with what must live as long as it does.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        runtime: That deserialized it.
        engine: The engine.
        captures_graphs: Whether its execution contexts capture CUDA graphs by themselves.
        kernels: Where compiled kernels are kept, where the flavour compiles any when an engine runs.
        runtime_cache: Those kernels, once there is an execution context.
    """

    module: ModuleType
    runtime: Any
    engine: Any
    captures_graphs: bool
    kernels: KernelFile | None = None
    runtime_cache: Any = None

    def create_context(self) -> Any:
        """An execution context; TensorRT-RTX captures its steps as CUDA graphs and shares its compiled kernels."""
        if not self.captures_graphs:
            return self.engine.create_execution_context()
        config = self.engine.create_runtime_config()
        config.cuda_graph_strategy = self.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self.runtime_cache is None:
            self.runtime_cache = config.create_runtime_cache()
            if self.kernels is not None:
                self.kernels.load(self.runtime_cache)
        config.set_runtime_cache(self.runtime_cache)
        return self.engine.create_execution_context(config)

    def close(self) -> None:
        """Keep the kernels that were compiled; its execution contexts have done their work."""
        if self.kernels is not None and self.runtime_cache is not None:
            self.kernels.keep(self.runtime_cache)


def load_engine(artifact: Artifact) -> LoadedEngine:
    """Deserialize an artifact's engine on the current GPU.

    Raises:
        ArtifactError: The engine cannot be read.
        MissingExtraError: The module that runs it is not installed.
        TargetError: There is no GPU, or the engine was built for another machine.
    """
    info = artifact.engine
    assert info is not None
    module = FLAVOURS[info.flavour].load()
    if not torch.cuda.is_available():
        raise TargetError(
            f"{artifact.folder} holds a {FLAVOURS[info.flavour].title} engine, and PyTorch sees no NVIDIA GPU here; "
            f"run it on a machine that has one, or run: exaone-export export MODEL OUT --target ort-cpu."
        )
    major, minor = torch.cuda.get_device_capability()
    info.check_fits(flavour=module.__name__, version=module.__version__, compute_capability=f"{major}.{minor}")
    runtime = module.Runtime(module.Logger(module.Logger.ERROR))
    engine = _deserialize(runtime, artifact.model_path)
    if engine is None:
        raise ArtifactError(
            f"{module.__name__} {module.__version__} cannot read {artifact.model_path}; run: exaone-export build "
            f"ARTIFACT OUT."
        )
    compiles = hasattr(module, "CudaGraphStrategy")  # TensorRT-RTX: the same product captures graphs by itself
    gpu = f"{torch.cuda.get_device_name()} {major}.{minor}"
    sha256 = artifact.manifest.files[artifact.model_path.name]["sha256"]
    kernels = KernelFile(sha256, module.__version__, gpu) if compiles else None
    return LoadedEngine(module, runtime, engine, captures_graphs=compiles, kernels=kernels)


def _deserialize(runtime: Any, path: Path) -> Any:
    # Mapped, so that the host holds no copy of the engine beside the GPU's.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return runtime.deserialize_cuda_engine(content)
