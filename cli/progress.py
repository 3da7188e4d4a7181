"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from exaone_export.progress import Progress as Report

_LINE_EVERY_SECONDS = 5.0


@contextmanager
def show_progress() -> Iterator[Report]:
    """Yield a call ``report(step, done, total)`` that shows how far the work is."""
    if sys.stderr.isatty():
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as bar:
            report = _Bar(bar)
            yield report
            report.complete()
    else:
        yield _Lines()


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar, self._step = bar, ""

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self.complete()
            self._step, self._task = step, self._bar.add_task(step, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def complete(self) -> None:
        """Show every step so far as done."""
        for task in self._bar.tasks:
            self._bar.update(task.id, completed=task.total)


class _Lines:
    def __init__(self) -> None:
        self._step, self._spoken = "", 0.0
        self._began, self._first = 0.0, 0

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if step != self._step:
            # What an earlier run has done is no measure of this one's pace.
            self._began, self._first = now, done
        if step != self._step or done == total or now - self._spoken > _LINE_EVERY_SECONDS:
            counted = f" {done}/{total}" if total > 1 else ""
            sys.stderr.write(f"{step}{counted}{self._left(now, done, total)}\n")
            self._step, self._spoken = step, now

    def _left(self, now: float, done: int, total: int) -> str:
        passed = now - self._began
        if passed < _LINE_EVERY_SECONDS or not self._first < done < total:
            return ""
        seconds = passed * (total - done) / (done - self._first)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
