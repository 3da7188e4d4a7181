"""The artifact folder: written whole or not at all, opened only after its manifest holds.

The folder is made under another name beside its destination, synced, and renamed. Names of that kind:

* ``.NAME.HEX.staging``: an artifact in the making. Its writer holds a lock on the folder itself, so that the next
  writer knows the folder of a living process from what a killed one has left.
* ``.NAME.HEX.retired``: an artifact that is being replaced, for the moment between two renames.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from exaone_export import strict_json
from exaone_export.artifact_checks import check_graph, check_kind_and_size, check_names, check_sidecars, check_sizes
from exaone_export.engine import EngineInfo
from exaone_export.errors import ArtifactError, ConfigError
from exaone_export.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SCHEMA_VERSION, SIGNATURE_NAME, Manifest
from exaone_export.names import is_plain_name
from exaone_export.signature import check_signature, is_signed, read_public_key
from exaone_export.spec import ModelSpec

__all__ = [
    "ENGINE_NAME",
    "MANIFEST_NAME",
    "MODEL_NAME",
    "SCHEMA_VERSION",
    "Artifact",
    "ArtifactWriter",
    "Manifest",
]

MODEL_NAME = "model.onnx"
ENGINE_NAME = "model.engine"

_AGAIN = "export the model again."
_OWN = (MANIFEST_NAME, SIGNATURE_NAME)
_PARTIAL_MANIFEST = re.compile(rf"\.{re.escape(MANIFEST_NAME)}(\.sig)?\.[0-9a-f]+\.partial")


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
    def open(cls, folder: str | Path, *, verify: bool = True, trusted_key: str | Path | None = None) -> Artifact:
        """Check an artifact against its manifest.

        Args:
            folder: The artifact.
            verify: Whether every file's hash is computed, which reads the whole folder. Without it a file's presence,
                kind and size are still checked, and a flipped bit is not seen.
            trusted_key: A public key, Ed25519 in PEM form. Its signature must stand beside the manifest, and is checked
                before anything else of the folder is read.

        Raises:
            ArtifactError: The folder is no artifact, or a file is missing, is no regular file, has another size or
                hash than the manifest says, or asks for what lies outside of the folder.
            KeyFileError: ``trusted_key`` is none.
            SignatureError: The manifest is not signed by ``trusted_key``.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise ArtifactError(f"{folder} is not a folder; give the folder that an export has written.")
        data = _manifest_bytes(folder)
        if trusted_key is not None:
            if not verify:
                raise ValueError("a signature proves nothing of files whose hashes are left out; leave verify out.")
            key = read_public_key(trusted_key)
            check_signature(folder, data, key)
        manifest = Manifest.from_json(data)
        try:
            spec = ModelSpec.from_config(manifest.model)
        except ConfigError as cause:
            raise ArtifactError(f"{folder / MANIFEST_NAME} describes no model: {cause}") from cause
        engine = _read_engine(folder, manifest)
        check_sizes(folder, manifest, spec)
        for name, record in manifest.files.items():
            check_kind_and_size(folder / name, record["size"])
        check_names(folder, manifest)
        if verify:
            for name, record in manifest.files.items():
                _check_hash(folder / name, record["sha256"])
            check_sidecars(folder, manifest)
        if engine is None:
            check_graph(folder / MODEL_NAME, manifest)
        return cls(folder, manifest, spec, engine)

    @property
    def model_path(self) -> Path:
        """The graph, or the engine."""
        return self.folder / (MODEL_NAME if MODEL_NAME in self.manifest.files else ENGINE_NAME)

    @property
    def graph_path(self) -> Path:
        """The graph, for a program that reads it.

        Raises:
            ArtifactError: It is no ONNX, or what it refers to is not of the artifact.
        """
        check_graph(self.model_path, self.manifest, is_read=True)
        return self.model_path

    def check_recordable(self) -> None:
        """Raise ArtifactError where the manifest may not be rewritten, because a signature would no longer hold."""
        if is_signed(self.folder):
            raise ArtifactError(
                f"{self.folder} is signed, and a record in its manifest would break the signature; remove "
                f"{SIGNATURE_NAME}, record, and sign again."
            )

    def record_parity(self, parity: dict[str, Any]) -> Artifact:
        """Write the summary of a comparison with PyTorch into the manifest; nothing else of the folder changes.

        Raises:
            ArtifactError: The manifest cannot be replaced, or is signed.
        """
        self.check_recordable()
        manifest = dataclasses.replace(self.manifest, parity=parity)
        partial = self.folder / f".{MANIFEST_NAME}.{uuid.uuid4().hex}.partial"
        try:
            _write_synced(partial, manifest.to_json())
            partial.replace(self.folder / MANIFEST_NAME)
            _sync(self.folder)
        except OSError as cause:
            partial.unlink(missing_ok=True)
            raise ArtifactError(
                f"{self.folder / MANIFEST_NAME} cannot be written ({cause.strerror}); make the folder writable."
            ) from cause
        return dataclasses.replace(self, manifest=manifest)


def _read_manifest(folder: Path) -> Manifest:
    return Manifest.from_json(_manifest_bytes(folder))


def _manifest_bytes(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link, not a file of the artifact; copy the artifact's files into one folder.")
    if not path.exists():
        raise ArtifactError(
            f"{folder} has no {MANIFEST_NAME}, so it is no artifact; give a folder that an export has written."
        )
    return strict_json.read_bytes(path, max_bytes=MAX_MANIFEST_BYTES, error=ArtifactError)


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


def _check_hash(path: Path, sha256: str) -> None:
    try:
        found = _hash(path)
    except OSError as cause:
        raise ArtifactError(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause
    if found != sha256:
        raise ArtifactError(f"{path} is not the file that was exported (its sha256 differs); {_AGAIN}")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ArtifactWriter:
    """Writes an artifact folder: what stood at the destination before stays until the new one is whole.

    Use as a context manager, put files into `path`, end with `commit`. Left in any other way, an exception among them,
    the destination is untouched and nothing remains.

    Args:
        destination: The folder to make. An empty folder may stand there.
        overwrite: Whether an artifact that stands there may be replaced. Anything else that stands there never is.
    """

    def __init__(self, destination: str | Path, overwrite: bool = False) -> None:
        self.destination = Path(destination).expanduser().resolve()
        self.overwrite = overwrite
        self._parent = self.destination.parent
        self._staging: Path | None = None
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The folder to put files into, between entry and commit."""
        if self._staging is None:
            raise RuntimeError("ArtifactWriter has no staging folder outside of its `with` block, or after a commit.")
        return self._staging

    def __enter__(self) -> ArtifactWriter:
        """Make the staging folder.

        Raises:
            ArtifactError: The destination is taken, or its parent cannot be written.
        """
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._parent):
                _clean_up(self.destination)
                _check_destination(self.destination, self.overwrite)
                staging = _sibling(self.destination, "staging")
                staging.mkdir()
                self._lock = _open_folder(staging)
                _lock_if_possible(self._lock)
                self._staging = staging
        except OSError as cause:
            raise ArtifactError(
                f"{self.destination} cannot be written ({cause.strerror}); choose another destination."
            ) from cause
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed; a full disk becomes an ArtifactError."""
        self._release(remove=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArtifactError(
                f"{self._parent} has no room for the artifact; free some, or choose another destination."
            ) from error

    def commit(self, manifest: Manifest, signing_key: Any = None) -> Manifest:
        """Hash and sync every file, write the manifest, and put the folder in its place.

        Args:
            manifest: All but ``files``, which is filled here.
            signing_key: Of `exaone_export.signature.read_private_key`; the signature appears with the folder.

        Returns:
            The manifest as written.

        Raises:
            ArtifactError: A file in the staging folder is not a plain one, the destination was taken meanwhile, or the
                disk refused.
        """
        staging = self.path
        try:
            files = {path.name: _seal(path) for path in sorted(staging.iterdir())}
            complete = dataclasses.replace(manifest, files=files)
            data = complete.to_json()
            Manifest.from_json(data)  # What could not be opened again is not written.
            _write_synced(staging / MANIFEST_NAME, data)
            if signing_key is not None:
                _write_synced(staging / SIGNATURE_NAME, signing_key.sign(data))
            _sync(staging)
            with _locked(self._parent):
                _check_destination(self.destination, self.overwrite)
                retired = _exchange(staging, self.destination)
            _sync(self._parent)
        except OSError as cause:
            raise ArtifactError(
                f"{self.destination} cannot be written ({cause.strerror}); choose another destination."
            ) from cause
        self._release(remove=False)
        if retired is not None:
            shutil.rmtree(retired, ignore_errors=True)  # The next writer removes what stays behind.
        return complete

    def _release(self, *, remove: bool) -> None:
        if remove and self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._staging = self._lock = None


# The destination


def _check_destination(destination: Path, overwrite: bool) -> None:
    """Raise ArtifactError unless nothing of value is lost when ``destination`` is replaced."""
    if not destination.exists():
        return
    if not destination.is_dir():
        raise ArtifactError(f"{destination} is a file; choose another destination.")
    entries = {entry.name for entry in destination.iterdir()}
    if not entries:
        return
    if MANIFEST_NAME not in entries:
        raise ArtifactError(f"{destination} is no artifact and not empty; choose another destination.")
    if not overwrite:
        raise ArtifactError(f"{destination} is an artifact already; pass --overwrite to replace it.")
    try:
        listed = _read_manifest(destination).files.keys() | {MANIFEST_NAME, SIGNATURE_NAME}
    except ArtifactError as cause:
        raise ArtifactError(
            f"{destination} has a manifest that cannot be read; remove the folder, or choose another destination."
        ) from cause
    # A manifest that was being rewritten when its writer died is nobody's.
    strangers = sorted(name for name in entries - listed if not _PARTIAL_MANIFEST.fullmatch(name))
    if strangers:
        raise ArtifactError(
            f"{destination} holds {strangers[0]!r}, which is not of the artifact and would be lost; move it away, or "
            f"choose another destination."
        )


def _exchange(staging: Path, destination: Path) -> Path | None:
    """Put ``staging`` in the place of ``destination``; gives where the old one went, if there was one."""
    if not destination.exists() or not any(destination.iterdir()):
        staging.rename(destination)  # An empty folder is replaced by rename itself.
        return None
    retired = _sibling(destination, "retired")
    destination.rename(retired)
    try:
        staging.rename(destination)
    except BaseException:
        retired.rename(destination)
        raise
    return retired


def _sibling(destination: Path, kind: str) -> Path:
    return destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.{kind}")


def _clean_up(destination: Path) -> None:
    """Finish what killed writers of the same destination have left; the parent is locked."""
    pattern = re.compile(re.escape(f".{destination.name}.") + r"[0-9a-f]{32}\.(staging|retired)")
    for entry in destination.parent.iterdir():
        found = pattern.fullmatch(entry.name)
        if found is None or entry.is_symlink():
            continue
        if found[1] == "retired" and not destination.exists():
            entry.rename(destination)  # Its writer was killed between the two renames.
        elif found[1] == "retired" or _is_abandoned(entry):
            shutil.rmtree(entry, ignore_errors=True)


def _is_abandoned(staging: Path) -> bool:
    descriptor = _open_folder(staging)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # A living writer holds the lock, or this file system has none: leave it.
        return False
    finally:
        os.close(descriptor)
    return True


# Locks and syncs


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _lock_if_possible(descriptor: int) -> None:
    """Lock a folder until its descriptor is closed, by the end of the process at the latest."""
    with contextlib.suppress(OSError):  # A network file system may have no locks; renames alone keep artifacts whole.
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextlib.contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Hold the parent's lock, so that writers look, clean up and rename one after the other."""
    descriptor = _open_folder(parent)
    try:
        _lock_if_possible(descriptor)
        yield
    finally:
        os.close(descriptor)


def _seal(path: Path) -> dict[str, object]:
    """Sync one finished file, and give its record."""
    if not is_plain_name(path.name) or path.name in _OWN or not stat.S_ISREG(path.lstat().st_mode):
        raise ArtifactError(
            f"{path.name!r} cannot be part of an artifact, whose files lie flat in one folder; rename it."
        )
    _sync(path)
    return {"sha256": _hash(path), "size": path.stat().st_size}


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
