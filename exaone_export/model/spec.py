"""What a model is: the architecture as immutable records, the same for every spelling of ``config.json``.

`ModelSpec` is the only description of the architecture that the rest of the package reads. How the many
spellings of ``config.json`` become one is in `exaone_export.model.config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError
from .families import EXAONE4, FAMILIES, Family, NormPosition
from .heads import CAUSAL_LM_HEAD, HIDDEN_STATES, QUESTION_ANSWERING, HeadSpec
from .rope import RopeSpec
from .sparse_mlp import SparseMlp

__all__ = ["FULL_ATTENTION", "SLIDING_ATTENTION", "SPARSE", "LayerSpec", "ModelSpec", "RopeSpec"]

SLIDING_ATTENTION = "sliding_attention"
FULL_ATTENTION = "full_attention"
LAYER_TYPES = (SLIDING_ATTENTION, FULL_ATTENTION)
DENSE, SPARSE = "dense", "sparse"


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """One decoder layer.

    Attributes:
        index: Position in the stack, from 0.
        window: How many keys a query sees, itself included; 0 for a global layer.
        rotary: Whether RoPE is applied; a layer without it has no positional encoding (NoPE).
        sparse: Its feed-forward network, where that is sparse; None for a dense one.
    """

    index: int
    window: int
    rotary: bool
    sparse: SparseMlp | None = None

    @property
    def kind(self) -> LayerSpec:
        """What two layers have in common that a graph computes alike: all but the index."""
        return dataclasses.replace(self, index=0)

    @property
    def is_global(self) -> bool:
        """Whether a query sees every earlier key."""
        return self.window == 0


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The architecture of one checkpoint.

    Attributes:
        layer_types: ``sliding_attention`` or ``full_attention`` for each layer.
        sliding_window: The width of every local layer's window; None if no layer is local.
        layer_windows: For each layer the width of its own window, 0 for a global one; empty where all local layers have
            ``sliding_window``.
        mlp_layer_types: ``dense`` or ``sparse`` for each layer; empty where all are dense.
        sparse_mlp: The feed-forward network of the sparse layers; None if there is none.
        eos_token_ids: Every token that ends a turn; empty if there is none.
        dtype: What the config says of the weights' type (``bfloat16``, …), or None; the weights themselves decide.
        head: What stands on the body.

    The others carry the names, and the meaning, that they have in ``config.json``.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    layer_types: tuple[str, ...]
    sliding_window: int | None
    rope: RopeSpec
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    dtype: str | None = None
    model_type: str = EXAONE4.model_type
    head: HeadSpec = CAUSAL_LM_HEAD
    layer_windows: tuple[int, ...] = ()
    mlp_layer_types: tuple[str, ...] = ()
    sparse_mlp: SparseMlp | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError where the fields contradict each other, so that ``dataclasses.replace`` is checked too."""
        self._check_heads()
        self._check_layers()
        self._check_mlps()
        self._check_token_ids()

    def to_config(self) -> dict[str, Any]:
        """A config that transformers' class of the family takes, and that is read as this spec."""
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            **(self._layer_config() if self.family.windows else {}),
            "rope_parameters": self.rope.to_config(),
            "bos_token_id": self.bos_token_id,
            "eos_token_id": _one_or_list(self.eos_token_ids),
            "pad_token_id": self.pad_token_id,
            "dtype": self.dtype,
            **self.head.to_config(),
            **(
                self.sparse_mlp.to_config() | {"mlp_layer_types": list(self.mlp_layer_types)} if self.sparse_mlp else {}
            ),
        }

    def _layer_config(self) -> dict[str, Any]:
        own = {"sliding_windows": list(self.layer_windows)} if self.layer_windows else {}
        return {
            "layer_types": list(self.layer_types),
            "sliding_window": self.sliding_window,
            # Null, because layer_types says it all and the pattern is read in more than one way.
            "sliding_window_pattern": None,
            **own,
        }

    @property
    def family(self) -> Family:
        """What the models of its ``model_type`` have in common."""
        return FAMILIES[self.model_type]

    @property
    def architecture(self) -> str:
        """The class of the model, as ``architectures`` names it."""
        return self.family.architecture(self.head.kind)

    @property
    def shares_embedding(self) -> bool:
        """Whether logits are made with the embedding, so that there is no vocabulary projection beside it."""
        return self.head.is_causal_lm and self.tie_word_embeddings

    @property
    def head_size(self) -> int:
        """Numbers that the head's product gives for a token; 0 where there is no product."""
        if self.head.is_causal_lm:
            return self.vocab_size
        return {HIDDEN_STATES: 0, QUESTION_ANSWERING: 2}.get(self.head.kind, len(self.head.labels))

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """What a graph gives beside its caches, the head's own first: by name, the shape of it for one token."""
        if self.head.kind == QUESTION_ANSWERING:
            return dict.fromkeys(self.head.outputs, ())
        if self.head.kind != HIDDEN_STATES:
            return dict.fromkeys(self.head.outputs, (self.head_size,))
        inner = [f"hidden_states.{i}" for i in range(self.num_hidden_layers)] if self.head.hidden_states else []
        return dict.fromkeys((*self.head.outputs, *inner), (self.hidden_size,))

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Window, rotation and feed-forward network of each layer.

        A layer rotates if it is local, or if the model has no window at all: the global layers of a hybrid model have
        no positional encoding.
        """
        local = [layer_type == SLIDING_ATTENTION for layer_type in self.layer_types]
        windows = self.layer_windows or [self.sliding_window or 0 if each else 0 for each in local]
        return tuple(
            LayerSpec(
                index=index,
                window=windows[index],
                rotary=local[index] or not any(local),
                sparse=self.sparse_at(index),
            )
            for index in range(len(local))
        )

    def sparse_at(self, layer: int) -> SparseMlp | None:
        """The feed-forward network of a layer, where that is sparse; None where it is dense."""
        return self.sparse_mlp if self.mlp_layer_types[layer : layer + 1] == (SPARSE,) else None

    @property
    def norm_position(self) -> NormPosition:
        """Which side of both sublayers is normalized: ``input`` or ``output``, before the residual sum."""
        return self.family.norm_position

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalized, each head on its own."""
        return self.family.qk_norm

    def with_layers(self, layers: Iterable[int]) -> ModelSpec:
        """The same architecture with some of its layers, in this order."""
        chosen = list(layers)
        types, mlps = (
            tuple(found[layer] for layer in chosen) if found else ()  # empty where all layers are alike
            for found in (self.layer_types, self.mlp_layer_types)
        )
        windows = tuple(self.layer_windows[layer] for layer in chosen) if self.layer_windows else ()
        return dataclasses.replace(
            self, num_hidden_layers=len(chosen), layer_types=types, layer_windows=windows, mlp_layer_types=mlps
        )

    def _check_heads(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads is {self.num_attention_heads}, which is not a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}); correct config.json."
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim is {self.head_dim}, but RoPE turns pairs and needs an even one; correct config.json."
            )

    def _check_layers(self) -> None:
        if len(self.layer_types) != self.num_hidden_layers:
            raise ConfigError(
                f"layer_types has {len(self.layer_types)} entries for num_hidden_layers {self.num_hidden_layers}; give "
                f"config.json one entry per layer."
            )
        unknown = sorted(set(self.layer_types) - set(LAYER_TYPES))
        if unknown:
            raise ConfigError(
                f"layer_types has {unknown[0]!r}, and only {' and '.join(LAYER_TYPES)} are known; correct config.json."
            )
        has_sliding = SLIDING_ATTENTION in self.layer_types
        if self.sliding_window is None:
            if has_sliding:
                raise ConfigError(
                    "layer_types has sliding_attention but sliding_window is null; give config.json the window's width."
                )
        elif not has_sliding:
            # transformers would apply RoPE to no layer at all, other readers to every one. No EXAONE was trained
            # without any positional encoding, so a window that nobody uses is taken for a mistake.
            raise ConfigError(
                f"sliding_window is {self.sliding_window} but no layer is sliding_attention, so no layer would have a "
                f"positional encoding; set sliding_window to null in config.json for RoPE on every layer."
            )

        if self.layer_windows and [window > 0 for window in self.layer_windows] != [
            layer_type == SLIDING_ATTENTION for layer_type in self.layer_types
        ]:
            raise ConfigError(
                f"sliding_windows is {list(self.layer_windows)!r:.80}, and must have a width for every sliding layer "
                f"and 0 for the others; correct config.json."
            )

    def _check_mlps(self) -> None:
        types = self.mlp_layer_types
        if types and len(types) != self.num_hidden_layers:
            raise ConfigError(
                f"mlp_layer_types has {len(types)} entries for num_hidden_layers {self.num_hidden_layers}; give "
                f"config.json one entry per layer."
            )
        if unknown := sorted(set(types) - {DENSE, SPARSE}):
            raise ConfigError(
                f"mlp_layer_types has {unknown[0]!r:.40}, and only {DENSE} and {SPARSE} are known; correct config.json."
            )
        if SPARSE in types and self.sparse_mlp is None:
            raise ConfigError(
                "mlp_layer_types has sparse layers, and config.json says nothing of their experts; add it."
            )

    def _check_token_ids(self) -> None:
        for name, token in (
            ("bos_token_id", self.bos_token_id),
            ("pad_token_id", self.pad_token_id),
            *(("eos_token_id", token) for token in self.eos_token_ids),
        ):
            if token is not None and not 0 <= token < self.vocab_size:
                raise ConfigError(
                    f"{name} is {token}, outside the vocabulary of {self.vocab_size}; correct config.json."
                )


def _one_or_list(tokens: tuple[int, ...]) -> int | list[int] | None:
    if not tokens:
        return None
    return tokens[0] if len(tokens) == 1 else list(tokens)
