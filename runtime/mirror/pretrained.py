"""What the classes of all heads have in common: loading an artifact, and checking the columns that its session runs.

Legend: B batch, S columns of a call, P columns that the cache has seen, K columns whose outputs are wanted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from transformers import PreTrainedConfig

from exaone_export.artifact.reader import Artifact
from exaone_export.artifact.replaced import again_if_replaced
from exaone_export.errors import ArtifactError, TargetError, UnsupportedOptionError

from ..core.answer_length import check_length
from ..core.buffers import BufferPool
from ..core.session import prefill_chunk
from ..one_process import OneProcess
from ..sessions import Session
from ..sessions.opening import open_session
from ..sessions.prefill.choice import BOTH, GraphChoice
from ..sessions.torch_memory import torch_dtype
from . import options, packing
from .cache import HybridCache
from .columns import run_columns
from .config import transformers_config

__all__ = ["ExaonePreTrainedModel", "check_gpu"]

_Model = TypeVar("_Model", bound="ExaonePreTrainedModel")


def check_gpu(artifact: Artifact) -> None:
    """Raise where an artifact needs a GPU and there is none, before the artifact is loaded.

    Raises:
        TargetError: It does, and there is none.
    """
    if artifact.device == "cuda" and not torch.cuda.is_available():
        raise TargetError(
            f"{artifact.folder} is for an NVIDIA GPU ({artifact.manifest.target}), and PyTorch sees none here; run it "
            f"on a machine that has one, or run: exaone-export export MODEL OUT --target ort-cpu."
        )


class ExaonePreTrainedModel(OneProcess):
    """A model that a session runs; see the classes that inherit, one a head.

    Threads may share a model, each with caches of its own: their steps take turns. Leave it, or call `close`, to
    release the weights.

    Args:
        session: Runs the graph.
        config: The model's architecture.
        prefill_chunk_size: Tokens of a prompt that one step takes at most; by default 128 on the CPU and 512 on a GPU.

    Attributes:
        config: As given.
        session: As given.
    """

    kind: ClassVar[str]
    """The head, a key of `exaone_export.model.heads.ARCHITECTURES`."""

    pads_right: ClassVar[bool] = True
    """Whether rows may be padded on the right."""

    main_input_name = "input_ids"
    base_model_prefix = "model"

    def __init__(self, session: Session, config: PreTrainedConfig, *, prefill_chunk_size: int | None = None) -> None:
        self.session, self.config = session, config
        self.prefill_chunk_size = prefill_chunk(session, prefill_chunk_size)
        self._pool = BufferPool(session.geometry)

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        folder: str | Path,
        *,
        threads: int | None = None,
        prefill_chunk_size: int | None = None,
        graphs: GraphChoice = BOTH,
        verify: bool = True,
        trusted_key: str | Path | None = None,
    ) -> _Model:
        """Open an artifact and load it.

        Args:
            folder: An artifact, as `exaone-export export` writes it; or, as text, one on the Hugging Face hub,
                ``ORG/NAME`` or ``ORG/NAME@REVISION``.
            threads: Threads that one operator may use on the CPU; by default the physical cores available to the
                process.
            prefill_chunk_size: Tokens of a prompt that one step takes at most; more need more memory. By default 128 on
                the CPU and 512 on a GPU.
            graphs: Which are loaded and run which steps, of an artifact with a graph of its own for prompts.
            verify: Whether the hash of every file is computed.
            trusted_key: A public key, Ed25519 in PEM form, that must have signed the artifact. It is checked before
                anything else of the folder is read, and before an engine, which is native code, is loaded.

        Raises:
            ArtifactError: The folder is not an artifact, is damaged, or holds a model with another head.
            ArtifactReplacedError: It was replaced twice while it was opened; after the first time it is opened again.
            MissingExtraError: The runtime is not installed.
            SignatureError: The artifact is not signed by ``trusted_key``.
            TargetError: The runtime is too old, or the artifact was made for another machine.
        """

        def load() -> _Model:
            artifact = Artifact.open(folder, verify=verify, trusted_key=trusted_key, weights_later=True)
            return cls.from_artifact(artifact, threads=threads, prefill_chunk_size=prefill_chunk_size, graphs=graphs)

        return again_if_replaced(load)

    @classmethod
    def from_artifact(
        cls: type[_Model],
        artifact: Artifact,
        *,
        threads: int | None = None,
        prefill_chunk_size: int | None = None,
        graphs: GraphChoice = BOTH,
    ) -> _Model:
        """Load an opened artifact, for a program that also reads other files of it, such as its tokenizer.

        Args:
            artifact: The opened artifact.
            threads: As `from_pretrained`.
            prefill_chunk_size: As `from_pretrained`.
            graphs: As `from_pretrained`.

        Raises:
            ArtifactError: A file cannot be read, or the model has another head.
            ArtifactReplacedError: The artifact was replaced after it was opened.
            MissingExtraError: The runtime is not installed.
            TargetError: The runtime is too old, or the artifact was made for another machine.
        """
        head = artifact.spec.head
        if head.kind != cls.kind:
            raise ArtifactError(
                f"{artifact.folder} holds an {artifact.spec.architecture}, and {cls.__name__} runs an "
                f"{artifact.spec.family.architecture(cls.kind)}; {_OTHERS[head.is_causal_lm]}."
            )
        config = transformers_config(artifact.spec, str(artifact.folder))
        with artifact.checking_weights() as checked:
            beside = cls._read_beside(checked, config)
            session = open_session(checked, threads=threads, graphs=graphs)
        return cls(session, config, *beside, prefill_chunk_size=prefill_chunk_size)

    @classmethod
    def _read_beside(cls, artifact: Artifact, config: PreTrainedConfig) -> tuple[Any, ...]:
        """What the class reads of an artifact beside the model, as the arguments behind the config."""
        del artifact, config
        return ()

    def __enter__(self: _Model) -> _Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the weights and the idle buffers; a later call raises."""
        self.session.close()
        self._pool.clear()

    @property
    def device(self) -> torch.device:
        """The device of the outputs; inputs may be on any device."""
        return torch.device(self.session.geometry.device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the cache."""
        return torch_dtype(self.session.geometry.dtype)

    @property
    def name_or_path(self) -> str:
        """The artifact's folder."""
        return self.config.name_or_path

    @property
    def max_length(self) -> int:
        """The most tokens, prompt and answer together, that a row may hold."""
        return self.session.geometry.layout.max_length

    def can_generate(self) -> bool:
        """False: the head does not give next tokens."""
        return False

    def eval(self: _Model) -> _Model:
        """Itself: an artifact is never trained."""
        return self

    def to(self: _Model, *args: Any, **kwargs: Any) -> _Model:
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

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, as transformers' class of the same head does."""
        raise NotImplementedError

    def outputs(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: HybridCache | None = None,
        logits_to_keep: int | torch.Tensor = 0,
    ) -> tuple[torch.Tensor, ...]:
        """Run ``S`` more columns, and give what the graph gives for them.

        Args:
            input_ids: ``[B, S]`` token ids.
            attention_mask: ``[B, P + S]``, 0 for padding, over all columns, those of ``cache`` included. Padding is on
                the left, or on either side where `pads_right` is true and the cache is empty.
            position_ids: Those that follow from the mask; others are refused.
            cache: A cache of this model, which is advanced in place; by default an empty one.
            logits_to_keep: The number of last columns that are wanted, 0 for all, or their indices ``[K]`` or
                ``[B, K]``.

        Returns:
            In the order of the session's ``output_shapes``, each ``[B, K, …]``, zero in padded columns.

        Raises:
            CacheInUseError: Another thread uses the cache.
            CancelledError: Somebody called the cache's `cancel`.
            PromptError: The tokens, their padding or their number cannot be run.
            UnsupportedOptionError: An argument is given that is not honoured.
        """
        tokens = options.check_tokens(input_ids, self.session.vocab_size)
        # The rows are cut into steps on the host.
        if isinstance(attention_mask, torch.Tensor):
            attention_mask = attention_mask.cpu()
        if isinstance(position_ids, torch.Tensor):
            position_ids = position_ids.cpu()
        cache = self.new_cache() if cache is None else cache
        rows, columns = tokens.shape
        options.check_batch(rows, self.session.max_batch)
        with cache.used():
            first = cache.get_seq_length()
            if self.pads_right and not first:
                tokens, attention_mask, position_ids, logits_to_keep = packing.padded_left(
                    tokens, attention_mask, position_ids, logits_to_keep
                )
            cache.allocate(rows)
            pads = packing.left_pads(attention_mask, rows, first + columns, cache.pads)
            check_length(first + columns - min(pads), self.max_length)
            packing.check_positions(position_ids, (rows, columns), first, pads)
            kept = options.kept_columns(logits_to_keep, columns)
            chunk = cache.prefill_chunk_size or self.prefill_chunk_size
            outputs = run_columns(self.session, cache, tokens, pads, kept, chunk)
        if max(pads) > first:
            for output in outputs:
                options.zero_padding(output, kept, first, pads)
        if isinstance(logits_to_keep, int):  # as they are
            return outputs
        return tuple(options.arrange(output, logits_to_keep, kept, columns) for output in outputs)


_OTHERS = {
    True: "open it with ExaoneForCausalLM, or run: exaone-export generate",
    False: "open it with the class of its head in exaone_export.runtime.mirror.heads, or run: exaone-export predict",
}
