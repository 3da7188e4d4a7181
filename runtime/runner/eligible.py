"""Which artifacts a `Runner` runs."""

from __future__ import annotations

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, TargetError

__all__ = ["check_runs_here", "runs_here"]


def runs_here(artifact: Artifact) -> bool:
    """Whether a `Runner` runs an artifact: a causal language model on ONNX Runtime's CPU."""
    return artifact.spec.head.is_causal_lm and artifact.device == "cpu"


def check_runs_here(artifact: Artifact) -> None:
    """Raise unless a `Runner` runs an artifact.

    Raises:
        ArtifactError: It holds a model with another head.
        TargetError: It runs on a GPU.
    """
    head = artifact.spec.head
    if not head.is_causal_lm:
        raise ArtifactError(
            f"{artifact.folder} holds an {head.architecture}, which generates no text; open it with the class of "
            f"its head in exaone_export.runtime.mirror.heads, or run: exaone-export predict."
        )
    if not runs_here(artifact):
        raise TargetError(
            f"{artifact.folder} is for {artifact.manifest.target}, and Runner runs on the CPU; open it with "
            f"ExaoneForCausalLM, or export with --target ort-cpu."
        )
