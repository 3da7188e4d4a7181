"""Makes a folder whole or not at all, whatever happens to the process, the disk or another writer.

The folder is made under another name beside its destination, synced, and put in its place in one step; the names
are those of `exchange`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ..errors import ExaoneExportError
from .destination import check_replaceable, resolve_path
from .durable import NO_ROOM, sync, write_synced
from .exchange import HEX_DIGITS, clean_up, finish_exchange, mode_of, put_in_place, set_mode, sibling, siblings
from .folder_locks import lock_folder, locked, make_and_lock, try_lock
from .opening import open_folder

__all__ = ["JOURNAL_NAME", "StagedFolder", "bytes_left_behind"]

JOURNAL_NAME = ".journal"
"""The one file of a staging folder that is not put in place: what its writer needs to go on."""

_DISK_ERRORS = (errno.EIO, errno.EROFS, errno.EFBIG)


class StagedFolder:
    """Writes a folder: what is at the destination stays until the new one is whole.

    Use as a context manager, put files into `path`, end with `put_in_place`. Left in any other way, an exception among
    them, the destination is untouched and nothing remains, with two exceptions. Where there is a key, a writer that is
    killed, is interrupted or finds the disk full leaves its folder to the next one of the same key. And a finished
    folder that the system refuses to put in its place is kept. After any other failure the same would happen again,
    or the disk cannot be trusted.

    Args:
        destination: The folder to make; an empty folder may exist there.
        key: A hash, in hexadecimal digits, of all that decides what will be in the folder; None where unfinished work
            is of no use.

    Attributes:
        noun: What the folder is, in messages.
        error: What is raised.
    """

    noun: ClassVar[str]
    error: ClassVar[type[ExaoneExportError]]

    def __init__(self, destination: str | Path, key: str | None = None) -> None:
        self.destination = resolve_path(destination, self.error)
        self._parent = self.destination.parent
        self._key = key
        self._staging: Path | None = None
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The folder to put files into, between entry and end; it may hold what an interrupted writer has left."""
        if self._staging is None:
            raise RuntimeError("the staging folder exists only inside the `with` block, until it is put in place.")
        return self._staging

    def check(self) -> None:
        """Raise unless the folder could be put in its place now; called before long work.

        Raises:
            ExaoneExportError: Of the type `error`: the destination is taken, or nothing can be put there.
        """
        with self.refused():
            if self.destination.exists() and not self.destination.is_dir():
                raise self.error(f"{self.destination} is a file; choose another destination.")
            check_replaceable(self.destination, self.error)
            if self.destination.exists() and (entries := {entry.name for entry in self.destination.iterdir()}):
                self.check_content(entries)

    def check_content(self, entries: set[str]) -> None:
        """Raise unless the folder at the destination can be replaced without losing anything of value.

        Args:
            entries: Names of what is in it, one or more.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Make the staging folder, or take over the one that an interrupted writer of the same key has left.

        Raises:
            ExaoneExportError: Of the type `error`: the destination is taken, or nothing can be put there.
        """
        with self.refused():
            check_replaceable(self.destination, self.error)
            self._parent.mkdir(parents=True, exist_ok=True)
            with locked(self._parent):
                finish_exchange(self.destination)
                try:
                    self.check()
                except self.error:
                    clean_up(self.destination)
                    raise
                clean_up(self.destination, keep=self._own)
                self._stage()
        return self

    @property
    def _own(self) -> Path | None:
        return None if self._key is None else sibling(self.destination, self._key[:HEX_DIGITS], "staging")

    def _stage(self) -> None:
        self._make_staging()
        if (mode := mode_of(self.destination)) is not None:
            # What is replaced may be private, and is so from the first byte on; its writer must be able to write.
            set_mode(self.path, mode | stat.S_IRWXU)

    def _make_staging(self) -> None:
        own = self._own
        if own is not None and (descriptor := make_and_lock(own)) is not None:
            self._staging, self._lock = own, descriptor
            return
        # A living writer of the same key is at the other one, or the file system has no locks that would tell.
        staging = sibling(self.destination, uuid.uuid4().hex, "staging")
        staging.mkdir()
        self._lock = open_folder(staging)
        try_lock(self._lock)
        self._staging = staging

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not put in place, unless it is of use; an error of the disk becomes one of type `error`."""
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        interrupted = kind is not None and not issubclass(kind, Exception)
        kept = self._staging if (full or interrupted) and self._is_of_use() else None
        self._release(remove=kept is None)
        if interrupted and kept is not None and error is not None:
            error.add_note(f"the same command goes on from {kept}")
        if full:
            again = "" if kept is None else f" and give the same command again, which goes on from {kept}"
            raise self.error(
                f"{self._parent} has no room for the {self.noun}; free some{again}, or choose another destination."
            ) from error
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise self._cannot_be_written(error) from error

    def put_in_place(self) -> None:
        """Give the finished folder its name; its files are synced.

        Raises:
            ExaoneExportError: Of the type `error`: the destination was taken meanwhile, or cannot be replaced; the
                finished folder is kept then.
            OSError: The disk refused.
        """
        staging, journal = self.path, self.path / JOURNAL_NAME
        work = journal.read_bytes() if journal.exists() else None
        journal.unlink(missing_ok=True)
        sync(staging)
        with self.refused():
            with locked(self._parent):
                self.check()
                mode = mode_of(self.destination)
                try:
                    replaced = put_in_place(staging, self.destination)
                except OSError as cause:
                    if cause.errno in _DISK_ERRORS:
                        raise
                    if work is not None:
                        with contextlib.suppress(OSError):
                            write_synced(journal, work)
                    if cause.errno in NO_ROOM:
                        raise
                    raise self._keep(cause) from cause
                if mode is not None:
                    set_mode(self.destination, mode)
            sync(self._parent)
        self._release(remove=False)
        if replaced is not None:
            set_mode(replaced, stat.S_IRWXU)
            shutil.rmtree(replaced, ignore_errors=True)  # The next writer removes what stays behind.

    def _keep(self, cause: OSError) -> ExaoneExportError:
        """Leave the finished folder where it is, and return the error that tells where."""
        if self._is_of_use():
            hint = f"change that, and give the same command again, which goes on from {self.path}"
        else:
            hint = f"the finished {self.noun} is {self.path}: move that folder to another place"
        self._release(remove=False)
        return self.error(f"{self.destination} cannot be replaced ({cause.strerror}); {hint}.")

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Turn an error of the disk into one of type `error`, but that of a full one: `__exit__` has more to say."""
        try:
            yield
        except OSError as cause:
            if self._staging is not None and cause.errno in NO_ROOM:
                raise
            raise self._cannot_be_written(cause) from cause

    def _cannot_be_written(self, cause: OSError) -> ExaoneExportError:
        return self.error(f"{self.destination} cannot be written ({cause.strerror}); choose another destination.")

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


def bytes_left_behind(destination: str | Path) -> int:
    """Bytes of the disk that killed writers of a destination hold: the next one goes on with them, or removes them."""
    size, destination = 0, Path(destination).expanduser().resolve()
    with contextlib.suppress(OSError), locked(destination.parent):
        for staging in siblings(destination, "staging"):
            descriptor = lock_folder(staging)
            if descriptor is None:  # Its writer lives.
                continue
            # Blocks, not lengths: what is not written yet of a file of weights is a hole.
            size += sum(path.lstat().st_blocks * 512 for path in staging.iterdir())
            os.close(descriptor)
    return size
