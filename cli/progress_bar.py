"""Progress as a bar on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .progress import Clock, Report

__all__ = ["show_bar"]

_BAR_WIDTH = 20


@contextmanager
def show_bar(clock: Clock) -> Iterator[Report]:
    """Yield a call ``report(step, done, total)`` that draws on stderr."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(_BAR_WIDTH),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        _Left(),
        console=Console(stderr=True),
    ) as bar:
        report = _Bar(bar, clock)
        yield report
        report.complete()


class _Left(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        """The time that is left, where it is known."""
        if task.finished or task.time_remaining is None:
            return Text("")
        return super().render(task).append(" left")


class _Bar:
    def __init__(self, bar: Progress, clock: Clock) -> None:
        self._bar, self._clock, self._step = bar, clock, ""

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self.complete()
            self._clock.start(step, done)
            self._step, self._task = step, self._bar.add_task(step, total=None, amount="")
        # Of a step that is not counted the bar only shows that it goes on.
        counted = total if total > 1 else None
        self._bar.update(self._task, completed=done, total=counted, amount=self._clock.amount(done, total))

    def complete(self) -> None:
        """Show every step so far as done."""
        for task in self._bar.tasks:
            total = task.total or 1
            self._bar.update(task.id, completed=total, total=total)
