"""What the engine's thread does.

Again and again it drops what was cancelled, admits what waits to the slots that are free, runs one step of one prompt,
and one step of all answers. A step is never of prompts and of answers, since the wider one would set the time of both.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from exaone_export.errors import CancelledError, ClosedError, EngineBusyError

from ..answering.loop import Answering
from ..answering.pace import StepCosts
from ..cancellation import Cancellation
from ..requests import Event
from ..session import HomeProcess, Session
from ..slots.slots import Slots
from .errand import Errand
from .statistics import Statistics

__all__ = ["Worker"]

_Work = Answering | Errand[Any]


class Worker:
    """A queue, and what runs.

    Args:
        session: Runs the graph.
        slots: Answers that are generated at once.
        queue: Requests that may wait for a slot; None for any number.
        chunk: Tokens of a prompt that one step takes at most.

    Attributes:
        slots: The conversations; of the thread that calls `run`.
        most_requests: Those that may run and wait together; None for any number.
        statistics: What was counted so far.
        costs: How long steps took.
    """

    def __init__(self, session: Session, slots: int, queue: int | None, chunk: int) -> None:
        self.slots = Slots(session, slots, chunk)
        self.most_requests = None if queue is None else slots + queue
        self.statistics, self.costs = Statistics(slots), StepCosts()
        self._running: list[Answering] = []  # in the order of their admission
        self._oldest_first = False
        self._changed = threading.Condition()
        self._waiting: deque[_Work] = deque()
        self._unfinished: set[_Work] = set()
        self._closing = Cancellation()
        self._closed = False
        self._home = HomeProcess("the engine")

    # From any thread

    def put(self, work: _Work) -> None:
        """Let it wait for its turn.

        Raises:
            ClosedError: It was stopped, or runs in the process that this one was forked from.
            EngineBusyError: As many requests wait as may.
        """
        self._home.check()
        with self._changed:
            if self._closed:
                raise ClosedError("the engine is closed; open the artifact again.")
            most = self.most_requests
            if isinstance(work, Answering) and most is not None and len(self._unfinished) >= most:
                waiting = max(len(self._unfinished) - len(self.slots), 0)
                raise EngineBusyError(
                    f"{len(self.slots)} answers are generated and {waiting} requests wait, the maximum; try again "
                    f"later, or open the artifact with more slots or a longer queue."
                )
            self._unfinished.add(work)
            self._waiting.append(work)
            self._changed.notify()

    def stop(self) -> None:
        """Cancel all that there is, and let the thread end behind it."""
        if self._home.is_elsewhere:  # where its lock may be held for ever
            return
        with self._changed:
            if self._closed:
                return
            self._closed = True
            for work in self._unfinished:
                work.cancellation.cancel()
            self._closing.cancel()
            self._changed.notify()

    def count(self) -> Statistics:
        """The statistics of this moment.

        Raises:
            ClosedError: The engine runs in the process that this one was forked from.
        """
        self._home.check()
        with self._changed:
            running, unfinished = len(self._running), len(self._unfinished)
        held = sum(len(slot.tokens) for slot in self.slots)
        return replace(self.statistics, running=running, waiting=max(unfinished - running, 0), held_tokens=held)

    # In the engine's thread

    def run(self) -> None:
        """Until it is stopped; what fails outside of an answer ends all of them, and the engine."""
        try:
            while self._has_work():
                self._drop_cancelled()
                self._admit()
                self._prefill()
                self._decode()
        except BaseException as error:
            with self._changed:
                self._closed, left = True, tuple(self._unfinished)
            for work in left:  # whoever waits for one would wait for ever
                work.put(error)
            raise

    def _has_work(self) -> bool:
        with self._changed:
            while not (self._running or self._waiting or self._closed):
                self._changed.wait()
            return bool(self._running or self._waiting)

    def _drop_cancelled(self) -> None:
        with self._changed:
            waiting = [work for work in self._waiting if work.cancellation.is_requested]
            for work in waiting:
                self._waiting.remove(work)
        for work in (*waiting, *(each for each in self._running if each.cancellation.is_requested)):
            self._end(work, "cancelled")

    def _admit(self) -> None:
        """Give slots to what waits, in its order; an errand has the engine to itself."""
        while (work := self._next()) is not None:
            if isinstance(work, Errand):
                work.run(self.slots)
                self._forget(work)
                continue
            slot = self.slots.take(work.prompt, [each.slot for each in self._running])
            self._running.append(work)
            with self._ending(work):
                work.begin(slot)

    def _next(self) -> _Work | None:
        with self._changed:
            if not self._waiting:
                return None
            most = 1 if isinstance(self._waiting[0], Errand) else len(self.slots)
            return self._waiting.popleft() if len(self._running) < most else None

    def _prefill(self) -> None:
        """Run a step of one prompt: by turns of the oldest and of the one that is done soonest."""
        prompts = [each for each in self._running if each.prompt_left]
        if not prompts:
            return
        self._oldest_first = not self._oldest_first
        answering = prompts[0] if self._oldest_first else min(prompts, key=lambda each: each.prompt_left)
        with self._ending(answering):
            self.statistics.steps += 1
            answering.prefill()

    def _decode(self) -> None:
        """Run a step of every answer whose prompt is done; one that is alone may guess."""
        answers = [each for each in self._running if not each.prompt_left]
        if not answers:
            return
        is_alone = len(answers) == 1
        with self._ending(*answers):
            tokens = [each.next_tokens(with_guesses=is_alone) for each in answers]
            self.statistics.steps += 1
            # What several share is not ended for one of them.
            cancellation = answers[0].cancellation if is_alone else self._closing
            began = time.perf_counter()
            found = self.slots.step([each.slot for each in answers], tokens, cancellation)
            if is_alone:
                self.costs.note(len(tokens[0]), time.perf_counter() - began)
            for each, logits_KV in zip(answers, found, strict=True):
                with self._ending(each):
                    each.take(logits_KV)

    @contextlib.contextmanager
    def _ending(self, *answers: Answering) -> Iterator[None]:
        """End those that have ended within, and all that are still there if something has failed."""
        event: Event | None = None
        try:
            yield
        except CancelledError:
            event = "cancelled"
        except BaseException as error:  # noqa: BLE001 - raised by the threads that read
            event = error
        for each in answers:
            if each not in self._running:
                continue
            if isinstance(event, BaseException):
                each.slot.discard()
            if (ended := event or each.reason) is not None:
                self._end(each, ended)

    def _end(self, work: _Work, event: Event) -> None:
        if work in self._running:
            self.slots.use(work.slot)
            self._running.remove(work)
        self._forget(work)
        work.put(event)

    def _forget(self, work: _Work) -> None:
        with self._changed:
            self._unfinished.discard(work)
