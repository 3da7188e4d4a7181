"""The order of a session's work and its callers', on streams that run nothing before somebody waits.

Work is queued as on a GPU: a stream runs its own in order, and another's only as far as an event says. A read of
something that is not ordered behind its write finds the old value, and so does a write that comes too early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from exaone_export.runtime.sessions.session_stream import SessionStream


class LazyStream:
    """A stream that runs what is queued as late as it may."""

    def __init__(self, *_: Any) -> None:
        self.queue: list[Callable[[], None]] = []
        self.cuda_stream = 7

    def synchronize(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def wait_stream(self, other: LazyStream) -> None:
        work, other.queue = other.queue, []
        # What `other` had queued runs at the latest here, and where it is needed earlier, there.
        done = iter(work)

        def run() -> None:
            for item in done:
                item()

        other.queue.append(run)
        self.queue.append(run)


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> LazyStream:
    current = [LazyStream()]

    @contextmanager
    def stream(other: LazyStream) -> Iterator[None]:
        current.append(other)
        try:
            yield
        finally:
            current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", LazyStream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: current[-1])
    return current[0]


def queue(work: Callable[[], None]) -> None:
    torch.cuda.current_stream().queue.append(work)


def test_work_is_behind_what_the_caller_queued_and_before_what_it_queues_next(callers: LazyStream) -> None:
    session, order = SessionStream(torch.device("cuda")), list[str]()
    for step in ("1", "2"):
        queue(lambda step=step: order.append(f"written {step}"))
        with session.ordered():
            queue(lambda step=step: order.append(f"run {step}"))
        queue(lambda step=step: order.append(f"read {step}"))
    assert not order  # nobody has waited on the host
    callers.synchronize()
    assert order == ["written 1", "run 1", "read 1", "written 2", "run 2", "read 2"]


def test_the_session_runs_nothing_before_what_the_caller_queued(callers: LazyStream) -> None:
    session, order = SessionStream(torch.device("cuda")), list[str]()
    queue(lambda: order.append("written"))
    with session.ordered():
        queue(lambda: order.append("run"))
    session.synchronize()
    assert order == ["written", "run"]


def test_a_step_that_fails_is_waited_for_too(callers: LazyStream) -> None:
    session, order = SessionStream(torch.device("cuda")), list[str]()
    with pytest.raises(ValueError, match="in the step"), session.ordered():
        queue(lambda: order.append("run"))
        raise ValueError("in the step")
    queue(lambda: order.append("read"))
    callers.synchronize()
    assert order == ["run", "read"]


def test_there_is_no_stream_on_the_cpu() -> None:
    session = SessionStream(torch.device("cpu"))
    with session.ordered():
        session.synchronize()
    assert session.handle == 0
