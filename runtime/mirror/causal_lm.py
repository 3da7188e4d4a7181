"""`ExaoneForCausalLM`: an artifact that answers the calls of transformers' ``generate()``.

Legend: B batch, S columns of a call, K columns whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Exaone4Config, GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactReplacedError, UnsupportedOptionError
from exaone_export.planning.deployment import PREFILL_CHUNKS

from ..core.buffers import BufferPool
from ..sessions import Session
from ..sessions.opening import open_session
from . import options, packing
from .cache import CACHE_NAME, HybridCache
from .dense_steps import dense_steps
from .generation_defaults import read_defaults
from .hooks import GenerationHooks

_LAST = torch.zeros(1, dtype=torch.int64)


class ExaoneForCausalLM(GenerationHooks):
    """A causal language model that a session runs.

    It is used as transformers' ``Exaone4ForCausalLM`` is, and gives the same tokens; an option that it does not honour
    is refused by name. Threads may share a model, each with caches of its own: their steps take turns. Leave it, or
    call `close`, to release the weights.

    Args:
        session: Runs the graph.
        config: The model's architecture.
        generation_config: The defaults of ``generate()``.
        prefill_chunk_size: Tokens of a prompt that one step takes at most; by default 128 on the CPU and 512 on a GPU.

    Attributes:
        config: As given.
        generation_config: As given; it may be changed.
        session: As given.
    """

    def __init__(
        self,
        session: Session,
        config: Exaone4Config,
        generation_config: GenerationConfig,
        *,
        prefill_chunk_size: int | None = None,
    ) -> None:
        if prefill_chunk_size is None:
            prefill_chunk_size = PREFILL_CHUNKS[session.geometry.device]
        if prefill_chunk_size < 1:
            raise ValueError(f"prefill_chunk_size is {prefill_chunk_size}; it must be at least 1.")
        self.session, self.config, self.generation_config = session, config, generation_config
        self.prefill_chunk_size = prefill_chunk_size
        self._pool = BufferPool(session.geometry)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        threads: int | None = None,
        prefill_chunk_size: int | None = None,
        verify: bool = True,
        trusted_key: str | Path | None = None,
    ) -> ExaoneForCausalLM:
        """Open an artifact and load it.

        Args:
            folder: An artifact, as `exaone-export export` writes it.
            threads: Threads that one operator may use on the CPU; by default the physical cores available to the
                process.
            prefill_chunk_size: Tokens of a prompt that one step takes at most; more need more memory. By default 128 on
                the CPU and 512 on a GPU.
            verify: Whether the hash of every file is computed.
            trusted_key: A public key, Ed25519 in PEM form, that must have signed the artifact. It is checked before
                anything else of the folder is read, and before an engine, which is native code, is loaded.

        Raises:
            ArtifactError: The folder is not an artifact, or is damaged.
            ArtifactReplacedError: It was replaced twice while it was opened; after the first time it is opened again.
            MissingExtraError: The runtime is not installed.
            SignatureError: The artifact is not signed by ``trusted_key``.
            TargetError: The runtime is too old, or the artifact was made for another machine.
        """

        def load() -> ExaoneForCausalLM:
            artifact = Artifact.open(folder, verify=verify, trusted_key=trusted_key)
            return cls.from_artifact(artifact, threads=threads, prefill_chunk_size=prefill_chunk_size)

        try:
            return load()
        except ArtifactReplacedError:
            return load()

    @classmethod
    def from_artifact(
        cls, artifact: Artifact, *, threads: int | None = None, prefill_chunk_size: int | None = None
    ) -> ExaoneForCausalLM:
        """Load an opened artifact, for a program that also reads other files of it, such as its tokenizer.

        Args:
            artifact: The opened artifact.
            threads: As `from_pretrained`.
            prefill_chunk_size: As `from_pretrained`.

        Raises:
            ArtifactError: A file cannot be read.
            ArtifactReplacedError: The artifact was replaced after it was opened.
            MissingExtraError: The runtime is not installed.
            TargetError: The runtime is too old, or the artifact was made for another machine.
        """
        config = Exaone4Config(**artifact.spec.to_config(), name_or_path=str(artifact.folder))
        with artifact.unchanged():
            defaults = read_defaults(artifact.folder, config)
            session = open_session(artifact, threads=threads)
        return cls(session, config, defaults, prefill_chunk_size=prefill_chunk_size)

    def __enter__(self) -> ExaoneForCausalLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the weights and the idle buffers; a later call raises."""
        self.session.close()
        self._pool.clear()

    @property
    def device(self) -> torch.device:
        """The device of the logits; inputs may be on any device."""
        return torch.device(self.session.geometry.device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the cache."""
        return self.session.geometry.dtype

    @property
    def name_or_path(self) -> str:
        """The artifact's folder."""
        return self.config.name_or_path

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and answer together, that a row may hold."""
        return self.session.geometry.layout.max_length

    def eval(self) -> ExaoneForCausalLM:
        """Itself: an artifact is never trained."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> ExaoneForCausalLM:
        """Itself, for its own device and dtype; others are refused, because a graph is exported for one of each."""
        options.check_move([*args, *kwargs.values()], self.device, self.dtype)
        return self

    def new_cache(self) -> HybridCache:
        """An empty cache to pass as ``past_key_values`` or ``cache``."""
        return HybridCache(self._pool)

    def own_cache(self, past_key_values: Any, cache: Any = None) -> HybridCache:
        """The cache that is given under either name, or an empty one for None.

        Raises:
            UnsupportedOptionError: It is not a cache of this model's shape, or there are two.
        """
        name, given = options.given_cache(past_key_values, cache)
        if given is None:
            return self.new_cache()
        if not isinstance(given, HybridCache) or given.geometry != self._pool.geometry:
            raise UnsupportedOptionError(
                f"{name} is a {type(given).__name__} of another model; pass one that this model returned, or "
                f"new_cache()."
            )
        return given

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`."""
        return self.forward(*args, **kwargs)

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: None = None,
        labels: None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache: HybridCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run the model on ``S`` more columns.

        Args:
            input_ids: ``[B, S]`` token ids, left-padded.
            attention_mask: ``[B, P + S]``, 0 for padding, over all columns, those of ``past_key_values`` included.
            position_ids: Those that follow from the mask; others are refused.
            past_key_values: A cache of this model, which is advanced in place.
            inputs_embeds: Refused.
            labels: Refused.
            use_cache: Whether the cache is returned; True by default.
            logits_to_keep: The number of last columns whose logits are wanted, 0 for all, or their indices.
            return_dict: Whether an object is returned; False for a tuple.
            output_attentions: Refused.
            output_hidden_states: Refused.
            cache: ``past_key_values`` under the name that it has from transformers 5.24 on.
            kwargs: Refused.

        Returns:
            Logits ``[B, K, V]`` in the layout of the call, zero in padded columns, and the cache.

        Raises:
            CacheInUseError: Another thread uses the cache.
            CancelledError: Somebody called the cache's `cancel`.
            PromptError: The tokens, their padding or their number cannot be run.
            UnsupportedOptionError: An argument is given that is not honoured.
        """
        given = {"inputs_embeds": inputs_embeds, "labels": labels, "output_attentions": output_attentions}
        options.refuse_unknown({**given, "output_hidden_states": output_hidden_states, **kwargs})
        tokens = options.check_tokens(input_ids, self.session.vocab_size)
        # The rows are cut into steps on the host.
        attention_mask, position_ids = (
            given.cpu() if isinstance(given, torch.Tensor) else given for given in (attention_mask, position_ids)
        )
        cache = self.own_cache(past_key_values, cache)
        rows, columns = tokens.shape
        options.check_batch(rows, self.session.max_batch)
        with cache.used():
            first = cache.get_seq_length()
            cache.allocate(rows)
            pads = packing.left_pads(attention_mask, rows, first + columns, cache.pads)
            options.check_length(first + columns - min(pads), self.max_length)
            packing.check_positions(position_ids, (rows, columns), first, pads)
            kept = options.kept_columns(logits_to_keep, columns)
            logits = self._run(cache, tokens, pads, kept)
        options.zero_padding(logits, kept, first, pads)
        logits = options.arrange_logits(logits, logits_to_keep, kept, columns)
        output = CausalLMOutputWithPast(logits=logits, **{CACHE_NAME: None if use_cache is False else cache})
        return output.to_tuple() if return_dict is False else output

    # transformers asks for it nine times a call; without this it is worked out anew every time.
    forward.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]

    def _run(self, cache: HybridCache, input_ids: torch.Tensor, pads: list[int], kept: Sequence[int]) -> torch.Tensor:
        """Steps over all columns; logits ``[B, K, V]`` of the ``kept`` ones."""
        columns = input_ids.shape[1]
        judged_from = cache.begin(columns, columns - kept[0] if kept else 0)
        chunk = min(cache.prefill_chunk_size or self.prefill_chunk_size, self.session.longest_step or self.max_length)
        logits = []
        for start, stop in packing.split(columns, judged_from, chunk, cache.narrowest_window):
            if start == judged_from:
                cache.mark()
            cache.prepare(stop - start, pads)
            offsets = [stop - 1 - column for column in kept[bisect_left(kept, start) : bisect_left(kept, stop)]]
            logits.append(self._step(cache, input_ids[:, start:stop], pads, offsets))
            cache.advance(stop - start)
        return logits[0] if len(logits) == 1 else torch.cat(logits, 1)

    def _step(
        self, cache: HybridCache, input_ids_BW: torch.Tensor, pads: list[int], offsets: list[int]
    ) -> torch.Tensor:
        """One step of the batch, or one a row where rows cannot run together; logits ``[B, len(offsets), V]``."""
        first = cache.get_seq_length()
        offsets_K = _LAST if offsets == [0] else torch.tensor(offsets, dtype=torch.int64)
        if self.session.ragged_steps:
            together = packing.pack(input_ids_BW, first, pads)
            steps = [] if together is None else [(slice(0, len(pads)), together)]
        else:
            steps = list(dense_steps(input_ids_BW, first, pads))
        if [rows for rows, _ in steps] == [slice(0, len(pads))]:
            return self.session.step(*steps[0][1], offsets_K, cache.buffers, cache.cancellation)
        shape = (len(pads), len(offsets), self.session.vocab_size)
        logits_BKV = torch.zeros(shape, dtype=self.session.logits_dtype, device=self.device)
        for rows, step in steps:
            buffers = cache.buffers.row(rows.start)
            logits_BKV[rows] = self.session.step(*step, offsets_K, buffers, cache.cancellation)
        return logits_BKV
