"""What an export that was killed has finished: one file in its staging folder, a line for each step.

The first line says what the graph became, the others which tensors of the data file are on the disk. A line is written
only after the disk has what it speaks of, so that it never promises too much; a line that was cut is none.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from exaone_export.artifact_writer import JOURNAL_NAME
from exaone_export.durable import hash_of, sync, write_all

__all__ = ["Journal"]

_GRAPH, _WRITTEN = "graph", "written"


class Journal:
    """The journal of one staging folder; a context manager.

    Args:
        folder: The staging folder, which nobody else is at.
        graph_file: Its file that the first line speaks of.
        data_file: Its file that the other lines speak of.

    Attributes:
        graph: What `begin` was given, by this process or by one that was killed; None before the graph is finished.
        written: Names of the tensors that are on the disk.
    """

    def __init__(self, folder: Path, graph_file: str, data_file: str) -> None:
        self._folder, self._graph_file, self._data_file = folder, graph_file, data_file
        self._descriptor: int | None = None
        self.graph: Mapping[str, Any] | None = None
        self.written: set[str] = set()

    def __enter__(self) -> Self:
        """Read what is there; all that the journal does not vouch for is removed.

        Raises:
            OSError: The folder cannot be written.
        """
        lines = self._read()
        if lines and self._fits(lines[0]):
            self.graph = lines[0][_GRAPH]
            self.written.update(name for line in lines[1:] for name in line.get(_WRITTEN, ()))
        kept = {JOURNAL_NAME, self._graph_file, self._data_file} if self.graph is not None else set()
        for path in self._folder.iterdir():
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        path = self._folder / JOURNAL_NAME
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if self.graph is not None:
            os.ftruncate(self._descriptor, self._whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def begin(self, graph: Mapping[str, Any]) -> None:
        """Keep what the graph became; its file is synced, and the data file has its length.

        Raises:
            OSError: The disk refused.
        """
        path = self._folder / self._graph_file
        size = (self._folder / self._data_file).stat().st_size
        sync(self._folder)
        self._append({_GRAPH: dict(graph), "sha256": hash_of(path), "size": size})
        self.graph = graph

    def add(self, names: Iterable[str]) -> None:
        """Keep the names of tensors that are synced.

        Raises:
            OSError: The disk refused.
        """
        found = sorted(names)
        if found:
            self._append({_WRITTEN: found})
            self.written.update(found)

    def _append(self, line: Mapping[str, Any]) -> None:
        assert self._descriptor is not None
        write_all(self._descriptor, json.dumps(line, sort_keys=True).encode() + b"\n")
        os.fsync(self._descriptor)

    def _read(self) -> list[dict[str, Any]]:
        self._whole = 0
        path, found = self._folder / JOURNAL_NAME, []
        if not path.exists():
            return []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                content = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(content, dict) or not content.keys() & {_GRAPH, _WRITTEN}:
                break
            found.append(content)
            self._whole += len(line)
        return found if found and _GRAPH in found[0] else []

    def _fits(self, line: Mapping[str, Any]) -> bool:
        """Whether both files are still what the first line says of them."""
        graph, data = self._folder / self._graph_file, self._folder / self._data_file
        if not all(path.is_file() and not path.is_symlink() for path in (graph, data)):
            return False
        return data.stat().st_size == line["size"] and hash_of(graph) == line["sha256"]
