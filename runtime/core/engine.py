"""One thread owns a session, and answers requests, several at once.

Graphs of a GPU belong to the thread that captured them, so the thread lasts as long as the engine.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

from exaone_export.errors import UnsupportedOptionError

from .answering.loop import Answering
from .cancellation import Cancellation
from .requests import Generation, Request
from .sampling import Sampler
from .scheduling.errand import Errand
from .scheduling.statistics import Statistics
from .scheduling.worker import Worker
from .session import Session, prefill_chunk
from .slots.slot import Slot

__all__ = ["Engine"]

_T = TypeVar("_T")


class Engine:
    """Answers requests, as many at once as it has slots; any thread may submit.

    A prompt goes on from what it shares with a conversation in a slot that is free. Leave the engine, or call `close`,
    to end its thread and what runs there. The session stays open.

    Args:
        session: Runs the graph; nobody else steps it meanwhile.
        slots: Answers that are generated at once.
        queue: Requests that may wait for a slot; None for any number.
        prefill_chunk_size: Tokens of a prompt that one step takes at most (default: the device's).

    Attributes:
        vocab_size: Of the tokens.
        max_length: The most tokens, prompt and answer together.

    Raises:
        CapacityError: There is no memory for the caches of as many slots.
        UnsupportedOptionError: The session has no room for as many slots, or a number is out of its range.
    """

    def __init__(
        self, session: Session, *, slots: int = 1, queue: int | None = None, prefill_chunk_size: int | None = None
    ) -> None:
        if queue is not None and (isinstance(queue, bool) or not isinstance(queue, int) or queue < 0):
            raise UnsupportedOptionError(f"queue is {queue!r:.40}; it must be at least 0.")
        self.vocab_size, self.max_length = session.vocab_size, session.geometry.layout.max_length
        self._worker = Worker(session, slots, queue, prefill_chunk(session, prefill_chunk_size))
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
            ClosedError: It was closed, or runs in the process that this one was forked from.
            EngineBusyError: As many requests wait as may.
            PromptError: The prompt is empty, holds a token outside the vocabulary, or does not fit together with its
                answer.
            UnsupportedOptionError: ``logit_bias`` names a token outside the vocabulary.
        """
        request.check(self.vocab_size, self.max_length)
        generation = Generation(request)
        sampler = Sampler(request.sampling, self.vocab_size, request.prompt, request.constraint)
        self._worker.put(Answering(generation, sampler, self._worker.statistics, self._worker.costs))
        return generation

    def perform(self, work: Callable[[Slot, Cancellation], _T], prompt: Sequence[int] | None = None) -> _T:
        """Let the engine's thread do something in one slot, and return what it gives.

        It waits for what was submitted before, and what is submitted later waits for it. An interruption of the caller
        cancels it, and is raised when it has ended.

        Args:
            work: What is done.
            prompt: In the slot that this prompt would get; by default in that of the latest conversation.

        Raises:
            CancelledError: The engine was closed before it was done.
        """
        errand = Errand(work, prompt)
        self._worker.put(errand)
        return errand.wait()

    @property
    def most_requests(self) -> int | None:
        """Requests that may run and wait together; None for any number."""
        return self._worker.most_requests

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs: not once it is closed or has failed, nor in a process that was forked."""
        return self._thread.is_alive()

    def statistics(self) -> Statistics:
        """What it is doing, and has done.

        Raises:
            ClosedError: It runs in the process that this one was forked from.
        """
        return self._worker.count()

    def close(self) -> None:
        """End the thread, and cancel what runs or waits."""
        self._finalizer()
        self._thread.join()
