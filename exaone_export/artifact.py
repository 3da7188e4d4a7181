"""The artifact folder, opened only after its manifest holds; `exaone_export.artifact_writer` writes it."""

from __future__ import annotations

import dataclasses
import stat
import uuid
from pathlib import Path
from typing import Any

from exaone_export import strict_json
from exaone_export.durable import hash_of, sync, write_synced
from exaone_export.engine import EngineInfo
from exaone_export.errors import ArtifactError, ConfigError
from exaone_export.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SCHEMA_VERSION, Manifest
from exaone_export.spec import ModelSpec

__all__ = [
    "ENGINE_NAME",
    "MANIFEST_NAME",
    "MODEL_NAME",
    "SCHEMA_VERSION",
    "Artifact",
    "Manifest",
    "read_manifest",
]

MODEL_NAME = "model.onnx"
ENGINE_NAME = "model.engine"

_AGAIN = "export the model again."


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An opened artifact.

    Attributes:
        folder: Where it lies.
        manifest: What it says of itself.
        spec: The model's architecture.
        engine: What its engine was built for; None where the artifact holds a graph.
    """

    folder: Path
    manifest: Manifest
    spec: ModelSpec
    engine: EngineInfo | None = None

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Artifact:
        """Check an artifact against its manifest.

        Args:
            folder: The artifact.
            verify: Whether every file's hash is computed, which reads the whole folder. Without it a file's presence,
                kind and size are still checked, and a flipped bit is not seen.

        Raises:
            ArtifactError: The folder is no artifact, or a file is missing, is no regular file, or has another size or
                hash than the manifest says.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise ArtifactError(f"{folder} is not a folder; give the folder that an export has written.")
        manifest = read_manifest(folder)
        try:
            spec = ModelSpec.from_config(manifest.model)
        except ConfigError as cause:
            raise ArtifactError(f"{folder / MANIFEST_NAME} describes no model: {cause}") from cause
        engine = _read_engine(folder, manifest)
        for name, record in manifest.files.items():
            _check_kind_and_size(folder / name, record["size"])
        if verify:
            for name, record in manifest.files.items():
                _check_hash(folder / name, record["sha256"])
        return cls(folder, manifest, spec, engine)

    @property
    def model_path(self) -> Path:
        """The graph, or the engine."""
        return self.folder / (MODEL_NAME if MODEL_NAME in self.manifest.files else ENGINE_NAME)

    def record_parity(self, parity: dict[str, Any]) -> Artifact:
        """Write the summary of a comparison with PyTorch into the manifest; nothing else of the folder changes.

        Raises:
            ArtifactError: The manifest cannot be replaced.
        """
        manifest = dataclasses.replace(self.manifest, parity=parity)
        partial = self.folder / f".{MANIFEST_NAME}.{uuid.uuid4().hex}.partial"
        try:
            write_synced(partial, manifest.to_json())
            partial.replace(self.folder / MANIFEST_NAME)
            sync(self.folder)
        except OSError as cause:
            partial.unlink(missing_ok=True)
            raise ArtifactError(
                f"{self.folder / MANIFEST_NAME} cannot be written ({cause.strerror}); make the folder writable."
            ) from cause
        return dataclasses.replace(self, manifest=manifest)


def read_manifest(folder: Path) -> Manifest:
    """Read what an artifact says of itself, without a look at its other files.

    Raises:
        ArtifactError: There is no manifest, or it is none that an export writes.
    """
    path = folder / MANIFEST_NAME
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link, not a file of the artifact; copy the artifact's files into one folder.")
    if not path.exists():
        raise ArtifactError(
            f"{folder} has no {MANIFEST_NAME}, so it is no artifact; give a folder that an export has written."
        )
    return Manifest.from_json(strict_json.read_bytes(path, max_bytes=MAX_MANIFEST_BYTES, error=ArtifactError))


def _read_engine(folder: Path, manifest: Manifest) -> EngineInfo | None:
    """What the manifest says of the engine; an engine that it says nothing of is none that may be loaded."""
    models = manifest.files.keys() & {MODEL_NAME, ENGINE_NAME}
    if not models:
        raise ArtifactError(f"{folder / MANIFEST_NAME} lists neither {MODEL_NAME} nor {ENGINE_NAME}; {_AGAIN}")
    if models != {MODEL_NAME if manifest.engine is None else ENGINE_NAME}:
        raise ArtifactError(
            f"{folder / MANIFEST_NAME} lists {' and '.join(sorted(models))}, and must list {MODEL_NAME} alone, or "
            f"{ENGINE_NAME} alone with what it was built for; {_AGAIN}"
        )
    return None if manifest.engine is None else EngineInfo.from_dict(manifest.engine)


def _check_kind_and_size(path: Path, size: int) -> None:
    try:
        status = path.lstat()
    except OSError as cause:
        raise ArtifactError(
            f"{path} cannot be found ({cause.strerror}), but the manifest lists it; {_AGAIN}"
        ) from cause
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError(f"{path} is a link or a special file; copy the artifact's files into one folder.")
    if status.st_size != size:
        raise ArtifactError(f"{path} has {status.st_size} bytes where the manifest says {size}; {_AGAIN}")


def _check_hash(path: Path, sha256: str) -> None:
    try:
        found = hash_of(path)
    except OSError as cause:
        raise ArtifactError(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause
    if found != sha256:
        raise ArtifactError(f"{path} is not the file that was exported (its sha256 differs); {_AGAIN}")
