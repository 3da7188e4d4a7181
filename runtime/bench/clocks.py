"""When tokens come out of ``generate()``, and how long the session's own steps take within it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from ..mirror.pretrained import ExaonePreTrainedModel
    from ..sessions import Session


class TokenClock:
    """A streamer of transformers that keeps the time of every token.

    Attributes:
        started: When it was made.
        times: Of every token of the answer, in seconds of `time.perf_counter`.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.times: list[float] = []
        self._prompt_is_past = False

    def put(self, _tokens: torch.Tensor) -> None:
        """Called with the prompt first, then with one token of every row."""
        if self._prompt_is_past:
            self.times.append(time.perf_counter())
        self._prompt_is_past = True

    def end(self) -> None:
        """Called behind the last token."""

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.started

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


class StepClock:
    """A session that keeps the time of its steps, and is the session that it is given in all else.

    A step on a GPU returns before its work is done, so that is timed by events on the GPU, without waiting.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._on_gpu = session.geometry.device != "cpu"
        self._steps: list[tuple[float, Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def step(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        """Run one step; see `exaone_export.runtime.sessions.Session.step`."""
        began, start = time.perf_counter(), self._mark()
        outputs = self._session.step(*args, **kwargs)
        self._steps.append((began, start, self._mark()))
        return outputs

    def seconds(self, since: float = 0.0) -> list[float]:
        """Of every step that began at ``since`` or later, in seconds of `time.perf_counter`."""
        if not self._on_gpu:
            return [stop - start for began, start, stop in self._steps if began >= since]
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) / 1e3 for began, start, stop in self._steps if began >= since]

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@contextmanager
def timed_steps(model: ExaonePreTrainedModel) -> Iterator[StepClock]:
    """Time the steps of a model's session while the context lasts."""
    session = model.session
    clock = StepClock(session)
    model.session = cast("Session", clock)
    try:
        yield clock
    finally:
        model.session = session
