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
    with progress.show_progress() as report:
        for second, done in ((0, 600), (2, 601), (6, 606), (60, 640), (390, 990), (399, 999), (400, 1000)):
            clock[0] = 100.0 + second
            report("calibrate", done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "calibrate 600/1000",  # where an earlier run came to
        "calibrate 606/1000, 7 min left",
        "calibrate 640/1000, 9 min left",
        "calibrate 990/1000, 10 s left",
        "calibrate 999/1000, 1 s left",
        "calibrate 1000/1000",
    ]


def test_a_step_begins_its_own_time(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.show_progress() as report:
        report("read", 1, 1)
        clock[0] += 50
        report("write", 0, 10)
        clock[0] += 10
        report("write", 1, 10)
    assert capsys.readouterr().err.splitlines() == ["read", "write 0/10", "write 1/10, 2 min left"]
