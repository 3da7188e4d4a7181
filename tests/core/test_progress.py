"""Steps that count their work."""

from __future__ import annotations

from exaone_export.progress import Step


def test_a_step_counts_from_what_an_earlier_run_has_done() -> None:
    told: list[tuple[str, int, int]] = []
    step = Step(lambda *progress: told.append(progress), "write", 10, done=4)
    step(0)
    step()
    step(5)
    assert told == [("write", 4, 10), ("write", 5, 10), ("write", 10, 10)]


def test_a_step_without_anybody_to_tell_is_silent() -> None:
    Step(None, "write", 1)()
