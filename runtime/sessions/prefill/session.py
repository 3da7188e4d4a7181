"""Two graphs of ONNX Runtime over one set of caches: one for prompts, fast for many tokens, and one for answers."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from exaone_export.errors import ArtifactError

from ...core.buffers import CacheBuffers
from ...core.cancellation import Cancellation
from ...core.session import HomeProcess
from ...core.steps import Step
from ..onnxruntime import OnnxRuntimeSession
from .choice import BOTH, GraphChoice

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact

__all__ = ["TwoGraphSession"]

_log = logging.getLogger(__name__)


class TwoGraphSession:
    """An artifact's two graphs, loaded; see `exaone_export.runtime.sessions.Session`.

    Caches, embedding, vocabulary projection and interface are the same, so that a step can be run by either one.

    Args:
        artifact: An opened artifact with a graph for prompts.
        choice: Which graph runs which steps.
        threads: Threads that one operator may use.

    Attributes:
        answers: The graph for single tokens, and for steps of which every token's logits are wanted.
        prompts: The graph for prompts.
        threshold: Rows times tokens of a step from which on the latter runs it.

    Raises:
        ArtifactError: A graph cannot be read, or the two do not take the same caches.
        MissingExtraError: onnxruntime is not installed.
        TargetError: onnxruntime is too old, or has no kernels for a precision.
    """

    def __init__(self, artifact: Artifact, choice: GraphChoice = BOTH, *, threads: int | None = None) -> None:
        of_prompts = artifact.of_prompts
        assert artifact.prefill is not None and of_prompts is not None
        self.answers = OnnxRuntimeSession(artifact, threads=threads)
        self.prompts = OnnxRuntimeSession(of_prompts, threads=threads, takes_turns=True)
        if self.answers.interface() != self.prompts.interface():
            self.close()
            raise ArtifactError(
                f"{of_prompts.model_path} does not take and give what {artifact.model_path.name} does, and they share "
                f"their caches; export the model again."
            )
        self.threshold, self._choice = choice.threshold or artifact.prefill.threshold, choice
        self._lock, self._home = threading.RLock(), HomeProcess("the session")
        self.geometry, self.vocab_size = self.answers.geometry, self.answers.vocab_size
        self.output_shapes, self.output_dtype = self.answers.output_shapes, self.answers.output_dtype
        self.longest_step, self.ragged_steps = self.answers.longest_step, self.answers.ragged_steps
        self.max_batch: int | None = None
        _log.info(
            "steps of %d tokens or more run in %s, whose weights take memory of their own; --no-prefill-graph does "
            "without them",
            self.threshold,
            artifact.prefill.precision,
        )

    def __enter__(self) -> TwoGraphSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release both graphs and their weights; a later step raises."""
        self.answers.close()
        self.prompts.close()

    def step(self, step: Step, buffers: CacheBuffers, cancellation: Cancellation | None = None) -> tuple[Any, ...]:
        """Run one step; see `exaone_export.runtime.sessions.Session.step`."""
        self._home.check()
        chosen = self.prompts if self._choice.is_for_prompts(step, self.threshold) else self.answers
        with self._lock:
            return chosen.step(step, buffers, cancellation)
