"""The progress of an export, in a file of its staging folder, so that the next run can continue; a line a step.

The first line holds the manifest of the graph, the others the tensors of the data file that are on disk, with their
hashes. A line is written only after what it lists is synced, and begins with its own hash: a truncated line and all
lines after it are ignored. Changes by a crash or a bad disk are found when the journal is opened.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from exaone_export.artifact.manifest import Manifest
from exaone_export.artifact.writer import JOURNAL_NAME
from exaone_export.errors import ArtifactError
from exaone_export.files import strict_json
from exaone_export.files.digest import hash_of
from exaone_export.files.durable import sync, write_all
from exaone_export.files.opening import open_itself
from exaone_export.files.records import Record, Sha256, Size, read_record

__all__ = ["Journal", "Written"]

_GRAPH, _WRITTEN = "graph", "written"
# A manifest of 4 MiB at the most, and a hundred bytes a tensor.
_MAX_BYTES = 32 << 20
_READ_AT_ONCE = 4 << 20


class Written(Record, frozen=True, array_like=True):
    """A tensor of the data file.

    Attributes:
        offset: Its first byte.
        length: In bytes.
        sha256: Of them, in hexadecimal digits.
    """

    offset: Size
    length: Size
    sha256: Sha256


class Journal:
    """The journal of one staging folder; a context manager.

    Args:
        folder: The staging folder; no other process uses it.
        graph_file: Name of the graph's file, which the first line describes.
        data_file: Name of the data file, which the other lines describe.
        more_graphs: Names of other graphs' files, which share the data file.

    Attributes:
        manifest: What `begin` was given, by this process or an interrupted one; None before the graph is written.
        written: Names of the tensors that are on disk.
        damaged: How many more tensors the journal lists whose bytes have changed.
        discarded: Whether there was a journal, and nothing that it lists can be used.
    """

    def __init__(self, folder: Path, graph_file: str, data_file: str, more_graphs: Sequence[str] = ()) -> None:
        self._folder, self._graph_file, self._data_file = folder, graph_file, data_file
        self._more_graphs = more_graphs
        self._descriptor: int | None = None
        self._whole = 0
        self.manifest: Manifest | None = None
        self.written: set[str] = set()
        self.damaged = 0
        self.discarded = False

    def __enter__(self) -> Self:
        """Read the journal, and remove every file that it does not list.

        Raises:
            OSError: The folder cannot be written.
        """
        self._take_up()
        files = {JOURNAL_NAME, self._graph_file, self._data_file, *self._more_graphs}
        kept = files if self.manifest is not None else set()
        for path in self._folder.iterdir():
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        path = self._folder / JOURNAL_NAME
        self._descriptor = open_itself(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        if self.manifest is not None:
            os.ftruncate(self._descriptor, self._whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def found(self) -> str | None:
        """A phrase on the work of an interrupted run; None if there is none."""
        if self.discarded:
            return f"the work of an earlier run in {self._folder} is damaged and was discarded"
        if self.manifest is None:
            return None
        again = f"; {self.damaged} more are damaged and will be written again" if self.damaged else ""
        return f"continuing after {len(self.written)} written tensors in {self._folder}{again}"

    def forget(self) -> None:
        """Drop all entries, before the files are written again.

        Raises:
            OSError: The disk refused.
        """
        assert self._descriptor is not None
        self.manifest, self.written = None, set()
        if os.fstat(self._descriptor).st_size:
            os.ftruncate(self._descriptor, 0)
            os.fsync(self._descriptor)

    def begin(self, manifest: Manifest) -> None:
        """Record the manifest of the graphs; their files are synced, and the data file has its full length.

        Raises:
            OSError: The disk refused.
        """
        path = self._folder / self._graph_file
        size = (self._folder / self._data_file).stat().st_size
        sync(self._folder)
        more = {name: hash_of(self._folder / name) for name in self._more_graphs}
        self._append({_GRAPH: manifest.to_json().decode(), "sha256": hash_of(path), "size": size, "more": more})
        self.manifest = manifest

    def add(self, tensors: Mapping[str, Written]) -> None:
        """Record tensors that are synced.

        Raises:
            OSError: The disk refused.
        """
        if tensors:
            self._append({_WRITTEN: tensors})
            self.written.update(tensors)

    def _append(self, line: Mapping[str, Any]) -> None:
        assert self._descriptor is not None
        text = msgspec.json.encode(line, order="sorted")
        write_all(self._descriptor, _hash(text) + b" " + text + b"\n")
        os.fsync(self._descriptor)

    def _take_up(self) -> None:
        data = self._read()
        first, *others = self._lines(data) or [{}]
        self.manifest = self._manifest(first)
        if self.manifest is None:
            self.discarded = b"\n" in data  # A truncated first line lists nothing.
            return
        said: dict[str, Written] = {}
        for line in others:
            said |= _tensors(line)
        self.written = {name for name, tensor in said.items() if self._is_there(tensor)}
        self.damaged = len(said) - len(self.written)

    def _read(self) -> bytes:
        path = self._folder / JOURNAL_NAME
        try:
            regular = stat.S_ISREG(path.lstat().st_mode)
        except FileNotFoundError:
            return b""
        if not regular:
            return b"\n"  # a line that is damaged
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)

    def _lines(self, data: bytes) -> list[dict[str, Any]]:
        """The lines before the first damaged one."""
        found = []
        for line in data.splitlines(keepends=True):
            digest, _, text = line.removesuffix(b"\n").partition(b" ")
            if not line.endswith(b"\n") or digest != _hash(text):
                break
            try:
                found.append(strict_json.parse_object(text, name=JOURNAL_NAME, error=ArtifactError))
            except ArtifactError:
                break
            self._whole += len(line)
        return found

    def _manifest(self, line: Mapping[str, Any]) -> Manifest | None:
        """The manifest in the first line, if the files are still what the line says of them."""
        names = (self._graph_file, self._data_file, *self._more_graphs)
        graph, data, *others = (self._folder / name for name in names)
        text = line.get(_GRAPH)
        if not isinstance(text, str) or not all(
            path.is_file() and not path.is_symlink() for path in (graph, data, *others)
        ):
            return None
        if data.stat().st_size != line.get("size") or hash_of(graph) != line.get("sha256"):
            return None
        if {path.name: hash_of(path) for path in others} != line.get("more"):
            return None
        try:
            return Manifest.from_json(text.encode())
        except ArtifactError:
            return None

    def _is_there(self, tensor: Written) -> bool:
        """Whether the data file still has the bytes that were written; a hole reads as zeros."""
        path, digest, end = self._folder / self._data_file, hashlib.sha256(), tensor.offset + tensor.length
        try:
            with path.open("rb") as file:
                if end > path.stat().st_size:
                    return False
                file.seek(tensor.offset)
                while (at := file.tell()) < end:
                    digest.update(file.read(min(end - at, _READ_AT_ONCE)))
        except OSError:  # It cannot be read, and may still be written.
            return False
        return digest.hexdigest() == tensor.sha256


def _hash(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _tensors(line: Mapping[str, Any]) -> dict[str, Written]:
    """The tensors that a line lists; none if it is not of the form that `Journal.add` writes."""
    try:
        return read_record(
            line.get(_WRITTEN), dict[str, Written], name=JOURNAL_NAME, fix="export again", error=ArtifactError
        )
    except ArtifactError:
        return {}
