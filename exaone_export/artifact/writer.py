"""Writes an artifact folder: whole or not at all, see `exaone_export.files.staged_folder`."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ArtifactError
from ..files.digest import hash_of
from ..files.durable import PARTIAL, sync, write_synced
from ..files.names import is_plain_name
from ..files.staged_folder import JOURNAL_NAME, StagedFolder
from .manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest, read_manifest

__all__ = ["JOURNAL_NAME", "ArtifactWriter"]

_OWN = (MANIFEST_NAME, SIGNATURE_NAME)


class ArtifactWriter(StagedFolder):
    """Writes an artifact folder; a context manager, to be ended with `commit`.

    Args:
        destination: The folder to make; an empty folder may exist there.
        overwrite: Whether an existing artifact may be replaced; anything else never is.
        key: As `StagedFolder`.
    """

    noun, error = "artifact", ArtifactError

    def __init__(self, destination: str | Path, overwrite: bool = False, key: str | None = None) -> None:
        super().__init__(destination, key)
        self.overwrite = overwrite

    def check_content(self, entries: set[str]) -> None:
        """Raise ArtifactError unless the destination is an artifact that may be replaced."""
        destination = self.destination
        if MANIFEST_NAME not in entries:
            raise ArtifactError(f"{destination} is not an artifact and not empty; choose another destination.")
        if not self.overwrite:
            raise ArtifactError(f"{destination} is an artifact already; pass --overwrite to replace it.")
        try:
            listed = read_manifest(destination).files.keys() | {*_OWN}
        except ArtifactError as cause:
            raise ArtifactError(
                f"{destination} has a manifest that cannot be read; remove the folder, or choose another destination."
            ) from cause
        # A killed process may have left a manifest or a signature that it was about to replace.
        unlisted = sorted(name for name in entries - listed if not PARTIAL.fullmatch(name))
        if unlisted:
            raise ArtifactError(
                f"{destination} holds {unlisted[0]!r}, which is not part of the artifact and would be lost; move it "
                f"away, or choose another destination."
            )

    def commit(self, manifest: Manifest, signing_key: Any = None) -> Manifest:
        """Hash and sync every file, write the manifest, and put the folder in its place.

        Args:
            manifest: All but ``files``, which is filled here.
            signing_key: Of `exaone_export.artifact.signature.read_private_key`; the signature appears with the folder.

        Returns:
            The manifest as written.

        Raises:
            ArtifactError: A file in the staging folder is not a plain one, the destination was taken meanwhile or
                cannot be replaced, or the disk refused.
        """
        staging = self.path
        with self.refused():
            files = {path.name: _seal(path) for path in sorted(staging.iterdir()) if path.name != JOURNAL_NAME}
            complete = msgspec.structs.replace(manifest, files=files)
            data = complete.to_json()
            Manifest.from_json(data)  # What could not be opened again is not written.
            write_synced(staging / MANIFEST_NAME, data)
            if signing_key is not None:
                write_synced(staging / SIGNATURE_NAME, signing_key.sign(data))
            self.put_in_place()
        return complete


def _seal(path: Path) -> dict[str, object]:
    """Sync one finished file, and give its record."""
    if not is_plain_name(path.name) or path.name in _OWN or not stat.S_ISREG(path.lstat().st_mode):
        raise ArtifactError(
            f"{path.name!r} cannot be part of an artifact, whose files lie flat in one folder; rename it."
        )
    sync(path)
    return {"sha256": hash_of(path), "size": path.stat().st_size}
