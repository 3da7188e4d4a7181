"""Progress on stderr, in units that people count in: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from exaone_export.progress import Progress as Report
from exaone_export.progress import silent

__all__ = ["BYTES", "PERCENT", "Clock", "Report", "show_progress", "show_slow_progress"]

BYTES, PERCENT = "bytes", "%"
"""Units beside any noun in the plural, such as ``"layers"``."""

_LINE_EVERY_SECONDS = 5.0
_SHORT_SECONDS = 0.5
_SIZES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


@contextmanager
def show_progress(units: Mapping[str, str] | None = None, *, unit: str = "steps") -> Iterator[Report]:
    """Yield a call ``report(step, done, total)`` that shows how far the work is.

    Args:
        units: By step, what is counted: `BYTES`, `PERCENT` or a noun in the plural.
        unit: What every other step counts.
    """
    clock = Clock(units or {}, unit)
    if sys.stderr.isatty():
        from .progress_bar import show_bar  # its library takes as long to load as all that a command like generate does

        with show_bar(clock) as report:
            yield report
    else:
        yield _Lines(clock)


@contextmanager
def show_slow_progress(units: Mapping[str, str]) -> Iterator[Report]:
    """As `show_progress`, on a terminal only, and nothing of work that ends within half a second."""
    if not sys.stderr.isatty():
        yield silent
        return
    began, shown = time.monotonic(), list[Report]()
    with ExitStack() as stack:

        def report(step: str, done: int, total: int) -> None:
            if not shown and done < total and time.monotonic() - began > _SHORT_SECONDS:
                shown.append(stack.enter_context(show_progress(units)))
            for show in shown:
                show(step, done, total)

        yield report


class Clock:
    """The amount, the rate and the time that is left, in words."""

    def __init__(self, units: Mapping[str, str], unit: str) -> None:
        self._units, self._unit = units, unit
        self._step, self._began, self._first = "", 0.0, 0

    def start(self, step: str, done: int) -> None:
        """Begin a step."""
        # What an earlier run has done says nothing of this one's pace.
        self._step, self._began, self._first = step, time.monotonic(), done

    def amount(self, done: int, total: int) -> str:
        """What is done and what there is to do, with the rate once it is known; "" where nothing is counted."""
        if total <= 1:
            return ""
        unit, passed = self._units.get(self._step, self._unit), time.monotonic() - self._began
        rate = (done - self._first) / passed if passed >= 1 else 0.0
        if unit == PERCENT:
            return f"{100 * done // total}%"
        if unit != BYTES:
            return f"{done:,}/{total:,} {unit}" + (f", {rate:.1f} {unit}/s" if rate >= 1 and done < total else "")
        name, size = next((pair for pair in _SIZES if total >= pair[1]), ("B", 1))
        digits = 2 if name == "GiB" else 0
        speed = f", {rate / size:.{digits or 1}f} {name}/s" if rate else ""
        return f"{done / size:.{digits}f}/{total / size:.{digits}f} {name}{speed}"

    def left(self, done: int, total: int) -> str:
        """The time that is left; "" where there is too little to tell it by."""
        passed = time.monotonic() - self._began
        if passed < _LINE_EVERY_SECONDS or not self._first < done < total:
            return ""
        seconds = passed * (total - done) / (done - self._first)
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"


class _Lines:
    def __init__(self, clock: Clock) -> None:
        self._clock, self._step, self._spoken = clock, "", 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if step != self._step:
            self._clock.start(step, done)
        if step != self._step or done == total or now - self._spoken > _LINE_EVERY_SECONDS:
            amount = self._clock.amount(done, total)
            sys.stderr.write(f"{step}{' ' if amount else ''}{amount}{self._clock.left(done, total)}\n")
            self._step, self._spoken = step, now
