"""The file of a graph's weights: every tensor at an offset that is known before the first is read.

Several workers read, quantize and write tensors in slices of rows, so that all cores work and only a few slices are in
memory. Finished tensors are synced in batches and then reported: a killed process loses at most the last batch.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from exaone_export.files.opening import open_itself
from exaone_export.planning.machine import export_workers
from exaone_export.planning.process_memory import EXPORT_WHOLE_BYTES

from ..checkpoint.tensor_file import as_bytes
from ..reference.weights import WeightReader

__all__ = ["Place", "Weight", "create", "lay_out", "write"]

# A runtime maps the file, and a tensor that begins with a page shares none with another.
_PAGE_BYTES, _ALIGNED_FROM_BYTES = 4096, 1 << 20
# Written between two syncs: seconds of work, and little enough that a sync does not wait for long.
_SYNC_BYTES = 512 << 20

Done = Callable[[Mapping[str, str]], None]
"""Called with the sha256 of tensors that are on disk, by name."""


@dataclass(frozen=True)
class Place:
    """Position of a tensor in the file.

    Attributes:
        offset: Its first byte.
        length: In bytes.
    """

    offset: int
    length: int


@dataclass(frozen=True)
class Weight:
    """A tensor to write.

    Attributes:
        name: In the graph.
        place: Its position.
        dtype: The dtype that its reader is called with.
        reader: Makes it.
    """

    name: str
    place: Place
    dtype: torch.dtype
    reader: WeightReader


def lay_out(lengths: Mapping[str, int]) -> tuple[dict[str, Place], int]:
    """Place tensors one after the other, those above 1 MiB at the start of a page.

    Args:
        lengths: Bytes by name, in order.

    Returns:
        Places by name, and the length of the file.
    """
    places, end = {}, 0
    for name, length in lengths.items():
        if length > _ALIGNED_FROM_BYTES:
            end = -(-end // _PAGE_BYTES) * _PAGE_BYTES
        places[name] = Place(end, length)
        end += length
    return places, end


def create(path: Path, length: int) -> None:
    """Create the file; it uses no disk space until it is written.

    Raises:
        OSError: The disk refused.
    """
    descriptor = open_itself(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.ftruncate(descriptor, length)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_gaps(path: Path, places: Iterable[Place]) -> None:
    """Write zeros between tensors, as in the file of an uninterrupted run.

    Raises:
        OSError: The disk refused.
    """
    descriptor = open_itself(path, os.O_WRONLY)
    try:
        end = 0
        for place in sorted(places, key=lambda place: place.offset):
            os.pwrite(descriptor, bytes(place.offset - end), end)
            end = place.offset + place.length
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, weights: Sequence[Weight], *, finished: Done, report: Callable[[int], None]) -> None:
    """Write tensors into the file.

    Args:
        path: The file, of its full length.
        weights: Those that are not written yet. Tensors made by one read of the checkpoint are written by one worker.
        finished: Called after a sync, by one worker at a time.
        report: Called with the bytes of the tensors that were written since the last call.

    Raises:
        OSError: The disk refused.
        CheckpointError: A tensor cannot be read.
    """
    jobs: dict[object, list[Weight]] = {}
    for weight in weights:
        jobs.setdefault(weight.reader.source, []).append(weight)
    descriptor = open_itself(path, os.O_WRONLY)
    try:
        writer = _Writer(descriptor, finished, report)
        with _one_thread_each(), ThreadPoolExecutor(export_workers()) as pool:
            try:
                futures = [pool.submit(writer.run, job) for job in jobs.values()]
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # After an exception or Ctrl-C, the other workers stop at their next slice.
                writer.stopped.set()
        for future in futures:
            future.result()
        writer.sync()
    finally:
        os.close(descriptor)


class _Writer:
    def __init__(self, descriptor: int, finished: Done, report: Callable[[int], None]) -> None:
        self.stopped = threading.Event()
        self._descriptor, self._finished, self._report = descriptor, finished, report
        self._room = _Room(EXPORT_WHOLE_BYTES)
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._unsynced: dict[str, str] = {}
        self._unsynced_bytes = 0

    def run(self, job: Sequence[Weight]) -> None:
        """Write the tensors of one read, unless another worker has failed."""
        if self.stopped.is_set():
            return
        try:
            self._run(job)
        except BaseException:
            self.stopped.set()
            raise

    def _run(self, job: Sequence[Weight]) -> None:
        with self._room.take(sum(weight.place.length for weight in job if weight.reader.whole)):
            # Values first: while they pass, their scales are collected, and not the other way round.
            digests = {}
            for weight in sorted(job, key=lambda weight: -weight.place.length):
                digest = hashlib.sha256()
                for done in self._write(weight, digest.update):
                    if self.stopped.is_set():
                        return
                    assert done <= weight.place.length, weight.name
                digests[weight.name] = digest.hexdigest()
        with self._lock:
            self._unsynced |= digests
            self._unsynced_bytes += sum(weight.place.length for weight in job)
            due = self._unsynced_bytes >= _SYNC_BYTES
            self._report(sum(weight.place.length for weight in job))
        if due:
            self.sync()

    def sync(self) -> None:
        """Sync what was written, and report it."""
        with self._syncing:
            with self._lock:
                done, self._unsynced, self._unsynced_bytes = self._unsynced, {}, 0
            if done:
                os.fsync(self._descriptor)
                self._finished(done)

    def _write(self, weight: Weight, hashed: Callable[[memoryview], None]) -> Iterator[int]:
        """Yield the number of bytes written, after each slice."""
        done = 0
        for part in weight.reader.parts(weight.dtype):
            rest = as_bytes(part)
            hashed(rest)
            while rest:
                written = os.pwrite(self._descriptor, rest, weight.place.offset + done)
                done, rest = done + written, rest[written:]
            del part, rest  # before the next is made
            yield done
        assert done == weight.place.length, f"{weight.name}: {done} bytes"


class _Room:
    """Limits the bytes in memory at once; a request above the limit runs alone."""

    def __init__(self, size: int) -> None:
        self._size, self._taken, self._condition = size, 0, threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait until so many bytes are free."""
        if not size:
            yield
            return
        with self._condition:
            self._condition.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size
        try:
            yield
        finally:
            with self._condition:
                self._taken -= size
                self._condition.notify_all()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Give each worker one thread; with one a core each, workers would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
