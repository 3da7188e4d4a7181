"""Which artifacts a `Runner` runs."""

from __future__ import annotations

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError

__all__ = ["check_runs_here"]


def check_runs_here(artifact: Artifact) -> None:
    """Raise unless a `Runner` runs an artifact: a causal language model's, of any target.

    Raises:
        ArtifactError: It holds a model with another head.
    """
    head = artifact.spec.head
    if not head.is_causal_lm:
        raise ArtifactError(
            f"{artifact.folder} holds an {artifact.spec.architecture}, which generates no text; open it with the class "
            f"of its head in exaone_export.runtime.mirror.heads, or run: exaone-export predict."
        )
