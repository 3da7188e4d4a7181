"""Writes an artifact folder: whole or not at all, whatever happens to the process, the disk or another writer.

The folder is made under another name beside its destination, synced, and put in its place in one step. Names of that
kind:

* ``.NAME.HEX.staging``: an artifact in the making. Its writer holds a lock on the folder itself, so that the next
  writer knows the folder of a living process from what a killed one has left.
* ``.NAME.HEX.retired``: an artifact that is being replaced, for the moment between two renames, where the file system
  cannot exchange two folders in one.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
import stat
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from exaone_export.artifact import read_manifest
from exaone_export.durable import (
    NO_ROOM,
    hash_of,
    lock_folder,
    locked,
    make_and_lock,
    open_folder,
    swap,
    sync,
    try_lock,
    write_synced,
)
from exaone_export.errors import ArtifactError
from exaone_export.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from exaone_export.names import is_plain_name

__all__ = ["JOURNAL_NAME", "ArtifactWriter"]

JOURNAL_NAME = ".journal"
"""The one file of a staging folder that is not of the artifact: what its writer needs to go on."""

_HEX_DIGITS = 32
_OWN = (MANIFEST_NAME, SIGNATURE_NAME)
_PARTIAL_MANIFEST = re.compile(rf"\.{re.escape(MANIFEST_NAME)}(\.sig)?\.[0-9a-f]+\.partial")
_DISK_ERRORS = (errno.EIO, errno.EROFS, errno.EFBIG)


class ArtifactWriter:
    """Writes an artifact folder: what stood at the destination before stays until the new one is whole.

    Use as a context manager, put files into `path`, end with `commit`. Left in any other way, an exception among them,
    the destination is untouched and nothing remains, with one exception: where there is a key, a writer that is killed,
    is interrupted or finds the disk full leaves its folder to the next one of the same key. After any other failure the
    same would happen again, or the disk is not to be believed.

    Args:
        destination: The folder to make. An empty folder may stand there.
        overwrite: Whether an artifact that stands there may be replaced. Anything else that stands there never is.
        key: A hash, in hexadecimal digits, of all that decides what will be in the folder; None where work that was
            begun is of no use.
    """

    def __init__(self, destination: str | Path, overwrite: bool = False, key: str | None = None) -> None:
        self.destination = Path(destination).expanduser().resolve()
        self.overwrite = overwrite
        self._parent = self.destination.parent
        self._own = None if key is None else _sibling(self.destination, key[:_HEX_DIGITS], "staging")
        self._staging: Path | None = None
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The folder to put files into, between entry and commit; it may hold what an interrupted writer has left."""
        if self._staging is None:
            raise RuntimeError("ArtifactWriter has no staging folder outside of its `with` block, or after a commit.")
        return self._staging

    def __enter__(self) -> ArtifactWriter:
        """Make the staging folder, or take over the one that an interrupted writer of the same key has left.

        Raises:
            ArtifactError: The destination is taken, or its parent cannot be written.
        """
        try:
            self._parent.mkdir(parents=True, exist_ok=True)
            with locked(self._parent):
                _finish_exchange(self.destination)
                try:
                    _check_destination(self.destination, self.overwrite)
                except ArtifactError:
                    _clean_up(self.destination)
                    raise
                _clean_up(self.destination, keep=self._own)
                self._stage()
        except OSError as cause:
            raise ArtifactError(
                f"{self.destination} cannot be written ({cause.strerror}); choose another destination."
            ) from cause
        return self

    def _stage(self) -> None:
        if self._own is not None and (descriptor := make_and_lock(self._own)) is not None:
            self._staging, self._lock = self._own, descriptor
            return
        # A living writer of the same key is at the other one, or the file system has no locks that would tell.
        staging = _sibling(self.destination, uuid.uuid4().hex, "staging")
        staging.mkdir()
        self._lock = open_folder(staging)
        try_lock(self._lock)
        self._staging = staging

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed, unless it is of use; an error of the disk becomes an ArtifactError."""
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        interrupted = kind is not None and not issubclass(kind, Exception)
        kept = self._staging if (full or interrupted) and self._is_of_use() else None
        self._release(remove=kept is None)
        if full:
            again = "" if kept is None else f" and give the same command again, which goes on from {kept}"
            raise ArtifactError(
                f"{self._parent} has no room for the artifact; free some{again}, or choose another destination."
            ) from error
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise ArtifactError(
                f"{self.destination} cannot be written ({error.strerror}); choose another destination."
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
            files = {path.name: _seal(path) for path in sorted(staging.iterdir()) if path.name != JOURNAL_NAME}
            complete = dataclasses.replace(manifest, files=files)
            data = complete.to_json()
            Manifest.from_json(data)  # What could not be opened again is not written.
            write_synced(staging / MANIFEST_NAME, data)
            if signing_key is not None:
                write_synced(staging / SIGNATURE_NAME, signing_key.sign(data))
            (staging / JOURNAL_NAME).unlink(missing_ok=True)
            sync(staging)
            with locked(self._parent):
                _check_destination(self.destination, self.overwrite)
                replaced = _put_in_place(staging, self.destination)
            sync(self._parent)
        except OSError as cause:
            if cause.errno in NO_ROOM:
                raise
            raise ArtifactError(
                f"{self.destination} cannot be written ({cause.strerror}); choose another destination."
            ) from cause
        self._release(remove=False)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)  # The next writer removes what stays behind.
        return complete

    def _is_of_use(self) -> bool:
        if self._staging is None or self._staging != self._own:
            return False
        journal = self._staging / JOURNAL_NAME
        return journal.is_file() and journal.stat().st_size > 0

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
        listed = read_manifest(destination).files.keys() | {*_OWN}
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


def _put_in_place(staging: Path, destination: Path) -> Path | None:
    """Put ``staging`` in the place of ``destination``; gives where the old one went, if there was one."""
    if not destination.exists() or not any(destination.iterdir()):
        staging.rename(destination)  # An empty folder is replaced by rename itself.
        return None
    try:
        swap(staging, destination)
    except OSError as refusal:
        if refusal.errno not in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise
    else:
        return staging
    retired = _sibling(destination, uuid.uuid4().hex, "retired")
    destination.rename(retired)
    try:
        staging.rename(destination)
    except BaseException:
        retired.rename(destination)
        raise
    return retired


def _sibling(destination: Path, digits: str, kind: str) -> Path:
    return destination.with_name(f".{destination.name}.{digits}.{kind}")


def _siblings(destination: Path, kind: str) -> list[Path]:
    pattern = re.compile(re.escape(f".{destination.name}.") + rf"[0-9a-f]{{{_HEX_DIGITS}}}\.{kind}")
    return [entry for entry in destination.parent.iterdir() if pattern.fullmatch(entry.name) and not entry.is_symlink()]


def _finish_exchange(destination: Path) -> None:
    """Do the second of two renames between which a writer was killed; the parent is locked."""
    for retired in _siblings(destination, "retired"):
        if destination.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(destination)


def _clean_up(destination: Path, keep: Path | None = None) -> None:
    """Remove what killed writers of the same destination have left; the parent is locked."""
    for staging in _siblings(destination, "staging"):
        if staging != keep and (descriptor := lock_folder(staging)) is not None:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(descriptor)


def _seal(path: Path) -> dict[str, object]:
    """Sync one finished file, and give its record."""
    if not is_plain_name(path.name) or path.name in _OWN or not stat.S_ISREG(path.lstat().st_mode):
        raise ArtifactError(
            f"{path.name!r} cannot be part of an artifact, whose files lie flat in one folder; rename it."
        )
    sync(path)
    return {"sha256": hash_of(path), "size": path.stat().st_size}
