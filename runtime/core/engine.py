"""One thread owns a session, and answers requests.

Graphs of a GPU belong to the thread that captured them, so the thread lasts as long as the engine. There is one slot:
requests wait for their turn.
"""

from __future__ import annotations

import queue
import threading
import weakref

from exaone_export.errors import CancelledError
from exaone_export.planning.deployment import PREFILL_CHUNKS

from .buffers import BufferPool
from .requests import FinishReason, Generation, Request, Token
from .sampling import Sampler
from .session import Session
from .slot import Slot

__all__ = ["PREFILL", "Engine"]

PREFILL = "prefill"
"""The name of the step that `Request.progress` is told of; its units are tokens."""


class Engine:
    """Answers requests, one after the other; any thread may submit.

    Leave it, or call `close`, to end its thread and what runs there. The session stays open.

    Args:
        session: Runs the graph, on the CPU; nobody else steps it meanwhile.
        prefill_chunk_size: Tokens of a prompt that one step takes at most (default: the device's).

    Attributes:
        vocab_size: Of the tokens.
        max_length: The most tokens, prompt and answer together.
    """

    def __init__(self, session: Session, *, prefill_chunk_size: int | None = None) -> None:
        geometry = session.geometry
        chunk = PREFILL_CHUNKS[geometry.device] if prefill_chunk_size is None else prefill_chunk_size
        if chunk < 1:
            raise ValueError(f"prefill_chunk_size is {chunk}; it must be at least 1.")
        self.vocab_size, self.max_length = session.vocab_size, geometry.layout.max_length
        self._worker = _Worker(session, chunk)
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
            UnsupportedOptionError: ``logit_bias`` names a token outside the vocabulary.
        """
        request.check(self.vocab_size, self.max_length)
        generation = Generation(request)
        self._worker.put(generation, Sampler(request.sampling, self.vocab_size, request.prompt))
        return generation

    def close(self) -> None:
        """End the thread, and cancel what runs or waits."""
        self._finalizer()
        self._thread.join()


class _Worker:
    """What the engine's thread does."""

    def __init__(self, session: Session, chunk: int) -> None:
        self._slot = Slot(session, BufferPool(session.geometry), chunk)
        self._waiting: queue.SimpleQueue[tuple[Generation, Sampler] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished: set[Generation] = set()
        self._closed = False

    def put(self, generation: Generation, sampler: Sampler) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed; open the artifact again.")
            self._unfinished.add(generation)
            self._waiting.put((generation, sampler))

    def stop(self) -> None:
        """Cancel all that there is, and let the thread end behind it."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for generation in self._unfinished:
                generation.cancel()
            self._waiting.put(None)

    def run(self) -> None:
        while (work := self._waiting.get()) is not None:
            generation, sampler = work
            try:
                generation.put(self._answer(generation, sampler))
            except CancelledError:
                generation.put("cancelled")
            except BaseException as error:  # noqa: BLE001 - raised by the thread that reads the answer
                self._slot.clear()
                generation.put(error)
            finally:
                with self._lock:
                    self._unfinished.discard(generation)
            del work, generation, sampler  # or the latest would be held until the next one

    def _answer(self, generation: Generation, sampler: Sampler) -> FinishReason:
        request, slot, cancellation = generation.request, self._slot, generation.cancellation
        cancellation.check()
        generation.timings.begin(reused=slot.reuse(request.prompt))
        tokens = list(map(int, request.prompt[len(slot.tokens) :]))
        total = len(request.prompt)
        request.progress(PREFILL, len(slot.tokens), total)
        widths = slot.widths(len(tokens))
        for index, width in enumerate(widths):
            if index == len(widths) - 1:
                slot.mark(total)
            logits_V = slot.step(tokens[:width], cancellation)
            del tokens[:width]
            request.progress(PREFILL, total - len(tokens), total)
        for count in range(1, request.max_new_tokens + 1):
            token, logprobs = sampler.choose(logits_V)
            cancellation.check()
            generation.timings.note_token()
            generation.put(Token(token, logprobs))
            stops = request.stops is not None and request.stops(token)
            if stops or token in request.stop_ids:
                return "stop"
            if count < request.max_new_tokens:
                logits_V = slot.step([token], cancellation)
        return "length"
