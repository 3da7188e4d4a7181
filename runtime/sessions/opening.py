"""From an artifact to the session that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exaone_export.extras import EXPORT, needs_extra

from . import Session
from .onnxruntime import OnnxRuntimeSession
from .prefill.choice import BOTH, GraphChoice
from .prefill.session import TwoGraphSession

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact


def open_session(artifact: Artifact, *, threads: int | None = None, graphs: GraphChoice = BOTH) -> Session:
    """Load an artifact where it runs.

    Args:
        artifact: An opened artifact.
        threads: Threads that one operator may use on the CPU; by default the physical cores available to the process.
        graphs: Which of them are loaded and run which steps, where there are two.

    Raises:
        ArtifactError: The graph or the engine cannot be read.
        MissingExtraError: The runtime, or PyTorch for a GPU, is not installed.
        TargetError: The runtime is too old, or the artifact was made for another machine.
        UnsupportedOptionError: There is one graph, and ``graphs`` chooses between two.
    """
    graphs.check(artifact)
    # What runs on a GPU uses PyTorch's memory, and what runs on the CPU does without.
    with needs_extra(f"the target {artifact.manifest.target}", "torch", extra=EXPORT):
        if artifact.engine is not None:
            from .tensorrt import TensorRTSession
        elif artifact.device == "cuda":
            from .cuda_graphs import CudaGraphSession
    if artifact.engine is not None:
        return TensorRTSession(artifact)
    if artifact.device == "cuda":
        return CudaGraphSession(artifact, threads=threads)
    if artifact.prefill is not None and graphs.prefill:
        return TwoGraphSession(artifact, graphs, threads=threads)
    return OnnxRuntimeSession(artifact, threads=threads)
