"""Where an engine may be written, checked before any work."""

from __future__ import annotations

from pathlib import Path

from exaone_export.artifact.location import check_locatable
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import ArtifactError
from exaone_export.files.destination import resolve_path

__all__ = ["check_apart", "check_destination"]


def check_destination(artifact: str | Path, out: str | Path, *, overwrite: bool) -> None:
    """Refuse what `exaone_export.exporter.build.engine.build_engine` would refuse whatever the artifact holds.

    Args:
        artifact: The artifact that the engine is built from: a folder, or one of the hub.
        out: The artifact folder to make.
        overwrite: Whether an artifact at ``out`` may be replaced.

    Raises:
        ArtifactError: There is no such artifact, the engine would replace it, or ``out`` cannot be written.
    """
    folder = check_locatable(artifact)
    if folder is not None:
        check_apart(folder, out)
    ArtifactWriter(out, overwrite).check()


def check_apart(source: Path, out: str | Path) -> None:
    """Raise where an engine would replace the graph that it is built from, which every later build needs.

    Raises:
        ArtifactError: It would.
    """
    if resolve_path(out, ArtifactError) == source.resolve():
        raise ArtifactError(
            f"{out} is the artifact that the engine is built from, and the next build needs its graph; choose another "
            f"destination."
        )
