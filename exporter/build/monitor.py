"""Progress of a build, and the way to stop one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from exaone_export.progress import Progress

# Deeper phases come by the hundred and repeat.
_DEEPEST = 2


def make_monitor(trt: Any, report: Progress) -> Any:
    """An `IProgressMonitor` that reports the phases of a build.

    Args:
        trt: The module.
        report: Called with a phase's name, the steps that are done of it and all its steps, from whichever thread
            builds.

    Returns:
        The monitor. Its ``cancel`` ends the build at the next step; its ``failure`` is what ``report`` raised, which
        ends the build too.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._cancelled = threading.Event()
            self.failure: BaseException | None = None
            self._lock = threading.Lock()
            self._depths: dict[str, int] = {}
            self._steps: dict[str, int] = {}

        def cancel(self) -> None:
            if not self._cancelled.is_set():
                self._cancelled.set()
                report("stop, once this step is done", 0, 1)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._depths[phase_name] = depth = self._depths.get(parent_phase or "", -1) + 1
                if 0 < depth <= _DEEPEST and num_steps > 1:
                    self._steps[phase_name] = num_steps
                    self._report(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._report(phase_name, step + 1)
            return not self._cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._depths.pop(phase_name, None)
                self._steps.pop(phase_name, None)

        def _report(self, phase_name: str, done: int) -> None:
            if phase_name not in self._steps or self._cancelled.is_set():
                return
            try:
                report(phase_name, done, self._steps[phase_name])
            except BaseException as failure:  # noqa: BLE001 - TensorRT would print it and lose it
                self.failure = failure
                self._cancelled.set()

    return Monitor()


def run_monitored(work: Callable[[], Any], monitor: Any) -> Any:
    """Run a build in a thread, so that an interrupt arrives here while TensorRT is busy.

    On an exception, `KeyboardInterrupt` among them, the build is cancelled and the exception goes on afterwards.

    Args:
        work: The build.
        monitor: Of `make_monitor`, which the build reports to.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        future = executor.submit(work)
        try:
            result = future.result()
        except BaseException:
            monitor.cancel()
            raise
    if monitor.failure is not None:
        raise monitor.failure
    return result
