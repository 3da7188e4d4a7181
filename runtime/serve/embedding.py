"""Vectors of texts, from the hidden states of an artifact's last layer.

Legend: K positions of a step whose states are wanted, H hidden_size.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError, EngineBusyError, PromptError

from ..core.buffers import BufferPool
from ..core.row_caches import RowCaches
from ..core.session import prefill_chunk
from ..core.steps import Step
from ..runner.runner import open_tokenizer
from ..sessions.opening import open_session
from ..text.tokenizer import check_vocabulary

__all__ = ["Embedder"]


class Embedder:
    """Makes vectors, one text after the other.

    Args:
        artifact: An opened artifact with the head ``hidden-states``, on the CPU.
        threads: As of `open_session`.
        queue: Calls that may wait.
        pooling: ``last`` for the vector of a text's last token, ``mean`` for the mean of all.

    Attributes:
        tokenizer: The artifact's.
        size: H.
        max_length: The most tokens of a text.
    """

    def __init__(self, artifact: Artifact, *, threads: int | None, queue: int, pooling: str) -> None:
        self.tokenizer = open_tokenizer(artifact)
        with artifact.checking_weights() as checked:
            self._session = open_session(checked, threads=threads)
        self.size, self.max_length = artifact.spec.hidden_size, self._session.geometry.layout.max_length
        self._pooling, self._chunk = pooling, prefill_chunk(self._session, None)
        self._chunk = min(self._chunk, self._session.longest_step or self._chunk)
        self._turn, self._room = threading.Lock(), threading.BoundedSemaphore(queue + 1)
        self._pool = BufferPool(self._session.geometry)

    def close(self) -> None:
        """Release the weights."""
        self._session.close()

    def encode(self, text: str | Sequence[int]) -> list[int]:
        """Token ids.

        Raises:
            PromptError: There are none, or too many, or one is not the model's.
        """
        tokens = self.tokenizer.encode(text) if isinstance(text, str) else list(text)
        check_vocabulary(self.tokenizer, tokens, self._session.vocab_size)
        if not tokens:
            raise PromptError("a text has no tokens; write something.")
        if len(tokens) > self.max_length:
            raise PromptError(f"a text has {len(tokens)} tokens, and at most {self.max_length} are taken; shorten it.")
        return tokens

    def embed(self, texts: Sequence[Sequence[int]], is_over: threading.Event) -> np.ndarray:
        """``[texts, H]`` float32, each of unit length.

        Args:
            texts: Of `encode`.
            is_over: Set when nobody waits for the vectors any more.

        Raises:
            ArtifactError: The model gives numbers that are not finite.
            EngineBusyError: The queue is full.
        """
        if not self._room.acquire(blocking=False):
            raise EngineBusyError("the queue is full; try again later.")
        try:
            found = []
            for text in texts:
                if is_over.is_set():
                    break
                with self._turn:
                    found.append(self._embed(text))
        finally:
            self._room.release()
        return np.array(found)

    def _embed(self, tokens: Sequence[int]) -> np.ndarray:
        rows = RowCaches(self._pool)
        rows.allocate(1)
        total = np.zeros(self.size, np.float64)
        for start in range(0, len(tokens), self._chunk):
            piece = np.array([tokens[start : start + self._chunk]], np.int64)
            width = piece.shape[1]
            kept = range(width - 1, -1, -1) if self._pooling == "mean" else (0,)
            step = Step(piece, list(rows.lengths), [width], kept)
            rows.prepare(step.after)
            states_KH = np.asarray(self._session.step(step, rows.buffers)[0][0], np.float64)
            rows.advance(step.after)
            total = total + states_KH.sum(0) if self._pooling == "mean" else states_KH[-1]
        length = np.linalg.norm(total)
        if not np.isfinite(length) or not length:
            raise ArtifactError("the model gives numbers that are not finite; export it again with float32.")
        return (total / length).astype(np.float32)
