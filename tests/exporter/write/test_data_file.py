"""Tensors lie where they should, are written a part at a time, and are said to be there only when they are."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from exaone_export.exporter.reference.weights import WeightReader
from exaone_export.exporter.write import data_file
from exaone_export.exporter.write.data_file import Place, Weight, create, lay_out, write

MIB = 1 << 20


def reader(*parts: torch.Tensor, source: object = None, whole: bool = False) -> WeightReader:
    def made(_: torch.dtype) -> Iterator[torch.Tensor]:
        yield from parts

    return WeightReader(made, source or made, whole)


def bytes_of(value: int, count: int) -> torch.Tensor:
    return torch.full((count,), value, dtype=torch.uint8)


def weights(*readers: WeightReader, length: int = 8) -> list[Weight]:
    return [Weight(str(i), Place(i * length, length), torch.uint8, one) for i, one in enumerate(readers)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create(tmp_path / "data", 64)
    return tmp_path / "data"


def test_large_tensors_begin_with_a_page() -> None:
    places, length = lay_out({"a": 10, "b": MIB + 1, "c": MIB, "d": 2 * MIB})
    assert places == {
        "a": Place(0, 10),
        "b": Place(4096, MIB + 1),
        "c": Place(4096 + MIB + 1, MIB),
        "d": Place(4096 + 2 * MIB + 4096, 2 * MIB),
    }
    assert length == 4096 + 4 * MIB + 4096
    assert lay_out({}) == ({}, 0)


def test_parts_lie_behind_each_other_and_gaps_are_zero(path: Path) -> None:
    done: list[str] = []
    counted: list[int] = []
    made = weights(reader(bytes_of(1, 3), bytes_of(2, 5)), reader(torch.full((4,), 0x0303, dtype=torch.int16)))
    made.append(Weight("2", Place(32, 4), torch.float32, reader(torch.tensor(1.0))))
    write(path, made, finished=done.extend, report=counted.append)
    one = torch.tensor([1.0]).view(torch.uint8).tolist()
    assert list(path.read_bytes()) == [1] * 3 + [2] * 5 + [3] * 8 + [0] * 16 + one + [0] * 28
    assert sorted(done) == ["0", "1", "2"]
    assert sum(counted) == 20  # bytes


def test_a_tensor_is_finished_only_when_the_disk_has_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    monkeypatch.setattr(data_file, "_SYNC_BYTES", 16)
    monkeypatch.setattr(data_file, "export_workers", lambda: 1)
    pwrite, fsync = os.pwrite, os.fsync
    monkeypatch.setattr(os, "pwrite", lambda *a: (events.append("write"), pwrite(*a))[1])
    monkeypatch.setattr(os, "fsync", lambda *a: (events.append("sync"), fsync(*a))[1])
    write(
        path,
        weights(*(reader(bytes_of(i, 8)) for i in range(5))),
        finished=lambda done: events.append([*done]),
        report=lambda _: None,
    )
    assert events == [
        *("write", "write", "sync", ["0", "1"]),
        *("write", "write", "sync", ["2", "3"]),
        *("write", "sync", ["4"]),
    ]


def test_one_reading_is_one_workers_and_its_largest_tensor_goes_first(path: Path) -> None:
    order: list[tuple[str, int]] = []

    def noted(name: str, count: int) -> WeightReader:
        def parts(_: torch.dtype) -> Iterator[torch.Tensor]:
            order.append((name, threading.get_ident()))
            yield bytes_of(1, count)

        return WeightReader(parts, "one source")

    made = [
        Weight("scale", Place(0, 4), torch.uint8, noted("scale", 4)),
        Weight("values", Place(8, 16), torch.uint8, noted("values", 16)),
    ]
    write(path, made, finished=lambda _: None, report=lambda _: None)
    assert [name for name, _ in order] == ["values", "scale"]
    assert len({thread for _, thread in order}) == 1


def test_two_are_at_work_side_by_side(path: Path) -> None:
    together = threading.Barrier(2, timeout=30)

    def waiting() -> WeightReader:
        def parts(_: torch.dtype) -> Iterator[torch.Tensor]:
            together.wait()
            yield bytes_of(1, 8)

        return WeightReader(parts, parts)

    write(path, weights(waiting(), waiting()), finished=lambda _: None, report=lambda _: None)


def test_what_must_be_whole_has_bounded_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 8 bytes fit 16, and one of 24 is alone."""
    monkeypatch.setattr(data_file, "EXPORT_WHOLE_BYTES", 16)
    monkeypatch.setattr(data_file, "export_workers", lambda: 4)
    inside, most, lock = 0, 0, threading.Lock()

    def counted(length: int) -> WeightReader:
        def parts(_: torch.dtype) -> Iterator[torch.Tensor]:
            nonlocal inside, most
            with lock:
                inside += length
                assert inside <= 16 or inside == length == 24
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= length
            yield bytes_of(1, length)

        return WeightReader(parts, parts, whole=True)

    made, at = [], 0
    for number, length in enumerate((8, 8, 24, 8, 8)):
        made.append(Weight(str(number), Place(at, length), torch.uint8, counted(length)))
        at += length
    write(path, made, finished=lambda _: None, report=lambda _: None)
    assert most >= 16


def test_an_error_stops_the_others_and_what_was_synced_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_file, "_SYNC_BYTES", 1)
    monkeypatch.setattr(data_file, "export_workers", lambda: 1)
    done: list[str] = []

    def broken(_: torch.dtype) -> Iterator[torch.Tensor]:
        yield bytes_of(1, 4)
        raise ValueError("broken")

    made = weights(reader(bytes_of(1, 8)), WeightReader(broken, broken), reader(bytes_of(1, 8)))
    with pytest.raises(ValueError, match="broken"):
        write(path, made, finished=done.extend, report=lambda _: None)
    assert done == ["0"]
    assert path.read_bytes()[16:24] == bytes(8)


def test_threads_of_torch_are_as_they_were(path: Path) -> None:
    threads, seen = torch.get_num_threads(), []

    def parts(_: torch.dtype) -> Iterator[torch.Tensor]:
        seen.append(torch.get_num_threads())
        yield bytes_of(1, 8)

    write(path, weights(WeightReader(parts, parts)), finished=lambda _: None, report=lambda _: None)
    assert seen == [1]
    assert torch.get_num_threads() == threads


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"years of work")
    (tmp_path / "data").symlink_to(tmp_path / "theirs")
    for call in (lambda path: create(path, 8), lambda path: write(path, [], finished=print, report=print)):
        with pytest.raises(OSError, match="symbolic links"):
            call(tmp_path / "data")
    assert (tmp_path / "theirs").read_bytes() == b"years of work"
