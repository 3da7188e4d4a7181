"""One thread owns a session, and answers requests.

Graphs of a GPU belong to the thread that captured them, so the thread lasts as long as the engine. There is one slot:
requests wait for their turn.
"""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from exaone_export.errors import EngineBusyError

from .answering.loop import Answering
from .buffers import BufferPool
from .cancellation import Cancellation
from .requests import LONGEST_SLEEP, Generation, Request
from .sampling import Sampler
from .session import Session, prefill_chunk
from .slot import Slot
from .statistics import Statistics

__all__ = ["Engine"]

_T = TypeVar("_T")


class Engine:
    """Answers requests, one after the other; any thread may submit.

    Leave it, or call `close`, to end its thread and what runs there. The session stays open.

    Args:
        session: Runs the graph, on the CPU; nobody else steps it meanwhile.
        slots: Answers that are generated at once.
        queue: Requests that may wait for a slot; None for any number.
        prefill_chunk_size: Tokens of a prompt that one step takes at most (default: the device's).

    Attributes:
        vocab_size: Of the tokens.
        max_length: The most tokens, prompt and answer together.
    """

    def __init__(
        self, session: Session, *, slots: int = 1, queue: int | None = None, prefill_chunk_size: int | None = None
    ) -> None:
        self.vocab_size, self.max_length = session.vocab_size, session.geometry.layout.max_length
        self._worker = _Worker(session, prefill_chunk(session, prefill_chunk_size))
        self._slots, self._queue = slots, queue
        self._thread = threading.Thread(target=self._worker.run, name="exaone-engine", daemon=True)
        self._thread.start()
        # The thread must not keep an engine that nobody uses any more.
        self._finalizer = weakref.finalize(self, self._worker.stop)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: Request) -> Generation:
        """Queue a request.

        Raises:
            PromptError: The prompt is empty, holds a token outside the vocabulary, or does not fit together with its
                answer.
            EngineBusyError: As many requests wait as may.
            UnsupportedOptionError: ``logit_bias`` names a token outside the vocabulary.
        """
        request.check(self.vocab_size, self.max_length)
        if self._queue is not None and len(self._worker._unfinished) >= self._slots + self._queue:
            raise EngineBusyError(f"{self._queue} requests wait, as many as may; try again later.")
        generation = Generation(request)
        sampler = Sampler(request.sampling, self.vocab_size, request.prompt, request.constraint)
        self._worker.put(generation, Answering(generation, sampler).run)
        return generation

    def perform(self, work: Callable[[Slot, Cancellation], _T]) -> _T:
        """Let the engine's thread do something with its slot, behind what waits, and return what it gives.

        An interruption of the caller cancels it, and is raised when it has ended.

        Raises:
            CancelledError: The engine was closed before it was done.
        """
        errand: _Errand[_T] = _Errand()

        def do(slot: Slot) -> _T:
            errand.cancellation.check()
            return work(slot, errand.cancellation)

        self._worker.put(errand, do)
        try:
            # A signal that comes just before the thread sleeps is seen when it wakes up.
            while not concurrent.futures.wait([errand.done], timeout=LONGEST_SLEEP).done:
                pass
            return errand.done.result()
        except BaseException:
            errand.cancel()
            concurrent.futures.wait([errand.done])
            raise

    def statistics(self) -> Statistics:
        """What it is doing, and has done."""
        unfinished = len(self._worker._unfinished)
        return Statistics(self._slots, min(unfinished, 1), max(unfinished - 1, 0), len(self._worker._slot.tokens))

    def close(self) -> None:
        """End the thread, and cancel what runs or waits."""
        self._finalizer()
        self._thread.join()


class _Worker:
    """What the engine's thread does."""

    def __init__(self, session: Session, chunk: int) -> None:
        self._slot = Slot(session, BufferPool(session.geometry), chunk)
        self._waiting: queue.SimpleQueue[tuple[_Work, Callable[[Slot], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished: set[_Work] = set()
        self._closed = False

    def put(self, work: _Work, do: Callable[[Slot], Any]) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed; open the artifact again.")
            self._unfinished.add(work)
            self._waiting.put((work, do))

    def stop(self) -> None:
        """Cancel all that there is, and let the thread end behind it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for work in self._unfinished:
                work.cancel()
            self._waiting.put(None)

    def run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            work, do = waiting
            try:
                work.put(do(self._slot))
            except BaseException as error:  # noqa: BLE001 - raised by the thread that waits for it
                work.put(error)
            finally:
                with self._lock:
                    self._unfinished.discard(work)
            del waiting, work, do  # or the latest would be held until the next one


class _Errand(Generic[_T]):
    """Work other than an answer."""

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        self.done: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def cancel(self) -> None:
        self.cancellation.cancel()

    def put(self, event: _T | BaseException) -> None:
        if isinstance(event, BaseException):
            self.done.set_exception(event)
        else:
            self.done.set_result(event)


_Work = Generation | _Errand
