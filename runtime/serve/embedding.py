"""Vectors of texts, from the hidden states of an artifact's last layer.

Legend: K positions of a step whose states are wanted, H hidden_size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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
    """Makes vectors, one text after the other, those of several calls by turns.

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
        self._calls, self._most_calls = 0, queue + 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exaone-vectors")
        self._pool = BufferPool(self._session.geometry)

    def close(self) -> None:
        """Release the weights, once the text that is run is done."""
        self._thread.shutdown(cancel_futures=True)
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

    async def embed(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """``[texts, H]`` float32, each of unit length; a call that is cancelled ends behind the text that is run.

        Args:
            texts: Of `encode`.

        Raises:
            ArtifactError: The model gives numbers that are not finite.
            EngineBusyError: The queue is full.
        """
        if self._calls >= self._most_calls:
            raise EngineBusyError(f"{self._calls} requests run or wait, the maximum; try again later.")
        self._calls += 1
        try:
            loop = asyncio.get_running_loop()
            return np.array([await loop.run_in_executor(self._thread, self._embed, text) for text in texts])
        finally:
            self._calls -= 1

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
