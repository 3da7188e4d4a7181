from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from exaone_export.runtime.sessions import mapped_tables
from exaone_export.runtime.sessions.mapped_tables import MappedTables, clean_ranges

SIZE = 1 << 20


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mapped_tables, "_SMALLEST_BYTES", SIZE)
    (tmp_path / "table").write_bytes(bytes(range(256)) * (SIZE // 256))
    return tmp_path / "table"


def resident_bytes(path: Path) -> int:
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(str(path))]
    return sum(int(next(line for line in lines[i:] if line.startswith("Rss:")).split()[1]) * 1024 for i in starts)


def test_pages_are_given_back_and_found_again(table: Path) -> None:
    with table.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        assert mapped[5000] == 5000 % 256
        tables = MappedTables(table)
        assert tables.num_bytes == SIZE
        mapped[:].count(0)
        assert resident_bytes(table) == SIZE
        tables.release()
        assert resident_bytes(table) == 0
        assert mapped[:] == table.read_bytes()


def test_a_page_that_was_written_to_is_never_dropped(table: Path) -> None:
    with table.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        mapped[7] = 99
        tables = MappedTables(table)
        assert tables.num_bytes == 0
        tables.release()
        assert mapped[7] == 99


def test_other_files_and_small_ones_are_left_alone(table: Path, tmp_path: Path) -> None:
    small = tmp_path / "table.small"
    small.write_bytes(bytes(SIZE // 2))
    with small.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        assert mapped[0] == 0
        assert MappedTables(small).num_bytes == 0
        assert MappedTables(table).num_bytes == 0
        assert MappedTables(tmp_path / "nothing").num_bytes == 0


def test_what_somebody_else_has_mapped_is_left_alone(table: Path) -> None:
    """They may unmap it, and other memory would then be dropped in its place."""
    with table.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as theirs:
        theirs[:].count(0)
        others = clean_ranges(table)
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as own:
            own[:].count(0)
            tables = MappedTables(table, others)
            assert tables.num_bytes == SIZE
            tables.release()
            assert resident_bytes(table) == SIZE
