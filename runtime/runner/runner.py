"""`Runner`: an artifact that answers prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.replaced import again_if_replaced
from exaone_export.errors import UnsupportedOptionError
from exaone_export.progress import Progress, silent

from ..core.cancellation import Cancellation
from ..core.constraint import Constraint
from ..core.engine import Engine
from ..core.requests import Request
from ..core.slots.slot import Slot
from ..one_process import OneProcess
from ..sessions import Session
from ..sessions.opening import open_session
from ..sessions.prefill.choice import BOTH, GraphChoice
from ..text.tokenizer import Tokenizer
from .answers import TextAnswer
from .defaults import Defaults, read_defaults
from .eligible import check_runs_here
from .lookup import Lookup
from .requests import request_of, tokens_of

__all__ = ["Runner", "open_tokenizer"]

_log = logging.getLogger(__name__)


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer; what transformers would do otherwise is logged as a warning.

    Raises:
        ArtifactError: The artifact has none, or one that cannot be read.
        ArtifactReplacedError: The artifact was replaced since it was opened.
    """
    with artifact.unchanged():
        tokenizer = Tokenizer.open(artifact.folder)
    for notice in tokenizer.notices:
        _log.warning("%s", notice)
    return tokenizer


class Runner(OneProcess):
    """An artifact, loaded; transformers is not imported, and torch only as the memory of a GPU.

    Threads may share a runner: their answers take turns, or are generated at once as far as there are slots. A prompt
    goes on from what it shares with a conversation before it. Leave the runner, or call `close`, to release the
    weights.

    Example:
        with Runner.open("out") as runner:
            for piece in runner.generate("Hello"):
                print(piece, end="", flush=True)

    Args:
        artifact: An opened artifact.
        session: Runs its graph.
        defaults: Its own, of ``generation_config.json``.
        tokenizer: Its own; opened when it is first needed by default.
        slots: Answers that are generated at once.
        queue: Requests that may wait for a slot; None for any number.
        prefill_chunk_size: Tokens of a prompt that one step takes at most (default: 128, on a GPU 512).

    Attributes:
        artifact: As given.
        session: As given.
        defaults: As given.
        prompt_lookup: What ``prompt_lookup_num_tokens`` is where `generate` is given none; None for the file's.
        engine: Generates the answers; `submit` requests of token ids to it, for what `generate` does not do.
    """

    def __init__(
        self,
        artifact: Artifact,
        session: Session,
        defaults: Defaults,
        *,
        tokenizer: Tokenizer | None = None,
        slots: int = 1,
        queue: int | None = None,
        prefill_chunk_size: int | None = None,
    ) -> None:
        self.artifact, self.session, self.defaults = artifact, session, defaults
        self._tokenizer = tokenizer
        self.prompt_lookup: Lookup = None
        self.engine = Engine(session, slots=slots, queue=queue, prefill_chunk_size=prefill_chunk_size)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        threads: int | None = None,
        slots: int = 1,
        queue: int | None = None,
        prefill_chunk_size: int | None = None,
        graphs: GraphChoice = BOTH,
        verify: bool = True,
        trusted_key: str | Path | None = None,
    ) -> Runner:
        """Open an artifact and load it.

        Args:
            folder: An artifact, as `exaone-export export` writes it; or, as text, one on the Hugging Face hub,
                ``ORG/NAME`` or ``ORG/NAME@REVISION``.
            threads: Threads that one operator may use on the CPU; by default the physical cores available to it.
            slots: Answers that are generated at once.
            queue: Requests that may wait for a slot; None for any number.
            prefill_chunk_size: Tokens of a prompt that one step takes at most (default: 128, on a GPU 512).
            graphs: Which are loaded and run which steps, of an artifact with a graph of its own for prompts.
            verify: Whether the hash of every file is computed.
            trusted_key: A public key, Ed25519 in PEM form, that must have signed the artifact.

        Raises:
            ArtifactError: The folder is not an artifact, is damaged, or holds a model with another head.
            ArtifactReplacedError: It was replaced twice while it was opened.
            MissingExtraError: The runtime, or PyTorch for a GPU, is not installed.
            SignatureError: The artifact is not signed by ``trusted_key``.
            TargetError: The runtime is too old, there is no GPU for it, or the engine was built for another machine.
            UnsupportedOptionError: A number is out of its range, or ``graphs`` chooses and there is one graph.
        """

        def load() -> Runner:
            artifact = Artifact.open(folder, verify=verify, trusted_key=trusted_key, weights_later=True)
            options: Any = {"slots": slots, "queue": queue, "prefill_chunk_size": prefill_chunk_size}
            runner = cls.from_artifact(artifact, threads=threads, graphs=graphs, **options)
            runner.defaults.warn()
            return runner

        return again_if_replaced(load)

    @classmethod
    def from_artifact(
        cls,
        artifact: Artifact,
        *,
        tokenizer: Tokenizer | None = None,
        threads: int | None = None,
        slots: int = 1,
        queue: int | None = None,
        prefill_chunk_size: int | None = None,
        graphs: GraphChoice = BOTH,
    ) -> Runner:
        """Load an opened artifact, for a program that has read other files of it; see `open`.

        Args:
            artifact: The opened artifact.
            tokenizer: Its tokenizer, where it was opened already.
            threads: As `open`.
            slots: As `open`.
            queue: As `open`.
            prefill_chunk_size: As `open`.
            graphs: As `open`.
        """
        check_runs_here(artifact)
        with artifact.checking_weights() as checked:
            defaults = read_defaults(checked)
            session = open_session(checked, threads=threads, graphs=graphs)
        options: Any = {"slots": slots, "queue": queue, "prefill_chunk_size": prefill_chunk_size}
        return cls(checked, session, defaults, tokenizer=tokenizer, **options)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is generated, and release the weights."""
        self.engine.close()
        self.session.close()

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and answer together, that a conversation may have."""
        return self.engine.max_length

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer.

        Raises:
            ArtifactError: The artifact has none, or one that cannot be read.
            ArtifactReplacedError: The artifact was replaced since it was opened.
        """
        if self._tokenizer is None:
            self._tokenizer = open_tokenizer(self.artifact)
        return self._tokenizer

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        prompt_lookup_num_tokens: Lookup = None,
        constraint: Callable[[], Constraint] | None = None,
        progress: Progress = silent,
        **options: Any,
    ) -> TextAnswer:
        """Begin an answer.

        Args:
            prompt: Text, which is used as it is, without the chat template; or token ids.
            max_new_tokens: The most tokens of the answer (default: ``generation_config.json``'s, else what fits).
            stop: Texts that end the answer, which is given up to the first of them (default: the file's).
            prompt_lookup_num_tokens: The most tokens to guess from the prompt and the answer and to judge in one step:
                the same tokens in fewer steps; "auto" for as few as are expected to save time, "off" for none (default:
                `prompt_lookup`, else the file's, else none).
            constraint: Makes what the answer is held to, such as the grammar of a JSON schema; what
                `exaone_export.runtime.constraints.requested.constraint_of` gives.
            progress: Is told how much of the prompt is done, from another thread.
            options: Those of `exaone_export.runtime.core.sampling.Sampling`, such as ``temperature`` and ``seed``
                (default: the file's, and greedy where that does not sample).

        Returns:
            The answer; iterate over it for its text.

        Raises:
            PromptError: The prompt is empty, holds an unknown token, or does not fit together with its answer.
            UnsupportedOptionError: An option is unknown, or its value is out of range.
        """
        if not (constraint is None or callable(constraint)):
            raise UnsupportedOptionError(
                f"constraint is {constraint!r:.60}; pass what constraint_of of exaone_export.runtime.constraints gives."
            )
        request, stream = request_of(
            self,
            prompt,
            max_new_tokens=max_new_tokens,
            stop=stop,
            prompt_lookup_num_tokens=prompt_lookup_num_tokens,
            constraint=None if constraint is None else constraint(),
            progress=progress,
            **options,
        )
        return TextAnswer(self.engine.submit(request), stream)

    def save_prompt(
        self, path: str | Path, prompt: str | Sequence[int] | None = None, *, progress: Progress = silent
    ) -> int:
        """Save a prompt with what the cache holds of it, so that later processes need not run it again.

        It waits for the answers that were begun before. Only the owner may read the file, which holds the prompt's
        tokens; one that exists is replaced, once the new one is whole.

        Args:
            path: The file to write.
            prompt: Text or token ids, as `generate` takes them, which are run first as far as the cache does not hold
                them already (default: what the cache holds, which is the latest prompt and its answer).
            progress: Is told how much of the prompt is done, from another thread.

        Returns:
            Tokens that were saved.

        Raises:
            KeptPromptError: The cache holds nothing, or the file cannot be written.
            PromptError: The prompt is empty, holds an unknown token, or is too long.
        """
        tokens = tokens_of(self, prompt) if prompt is not None else None
        if tokens is not None:
            Request(tokens, 1).check(self.session.vocab_size, self.max_length)

        def save(slot: Slot, cancellation: Cancellation) -> int:
            if tokens is not None:
                slot.reuse(tokens)
                slot.prefill(tokens, cancellation, progress)
            return slot.save(path, self.artifact.identity, cancellation)

        return self.engine.perform(save, tokens)

    def load_prompt(self, path: str | Path) -> int:
        """Make the cache hold what `save_prompt` has written; a prompt that begins with it goes on from there.

        It waits for the answers that were begun before. Where a file is refused, the cache stays as it was. The numbers
        in a file decide what the model says behind it, so load only files that you trust.

        Returns:
            Tokens that were loaded.

        Raises:
            KeptPromptError: The file cannot be read, is damaged, or was saved with another artifact.
        """

        def load(slot: Slot, cancellation: Cancellation) -> int:
            return slot.load(path, self.artifact.identity, cancellation)

        return self.engine.perform(load, ())
