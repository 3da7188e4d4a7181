"""Progress where there is no terminal: lines, with the time that is left."""

from __future__ import annotations

import pytest

from exaone_export.cli import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_tell_how_long_it_takes_still(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.show_progress(unit="layers") as report:
        for second, done in ((0, 600), (2, 601), (6, 606), (60, 640), (390, 990), (399, 999), (400, 1000)):
            clock[0] = 100.0 + second
            report("calibrate", done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "calibrate 600/1,000 layers",  # where an earlier run came to
        "calibrate 606/1,000 layers, 1.0 layers/s, 7 min left",
        "calibrate 640/1,000 layers, 9 min left",
        "calibrate 990/1,000 layers, 1.0 layers/s, 10 s left",
        "calibrate 999/1,000 layers, 1.0 layers/s, 1 s left",
        "calibrate 1,000/1,000 layers, 1.0 layers/s",
    ]


def test_a_step_begins_its_own_time(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.show_progress() as report:
        report("read", 1, 1)
        clock[0] += 50
        report("write", 0, 10)
        clock[0] += 10
        report("write", 1, 10)
    assert capsys.readouterr().err.splitlines() == ["read", "write 0/10 steps", "write 1/10 steps, 2 min left"]


@pytest.mark.parametrize(
    ("unit", "total", "lines"),
    [
        (progress.BYTES, 10 << 30, ["x 0.00/10.00 GiB", "x 5.00/10.00 GiB, 0.50 GiB/s, 10 s left"]),
        (progress.BYTES, 10 << 20, ["x 0/10 MiB", "x 5/10 MiB, 0.5 MiB/s, 10 s left"]),
        (progress.PERCENT, 1000, ["x 0%", "x 50%, 10 s left"]),
        ("lines", 1000, ["x 0/1,000 lines", "x 500/1,000 lines, 50.0 lines/s, 10 s left"]),
    ],
)
def test_units(unit: str, total: int, lines: list[str], clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.show_progress({"x": unit}) as report:
        report("x", 0, total)
        clock[0] += 10
        report("x", total // 2, total)
    assert capsys.readouterr().err.splitlines() == lines
