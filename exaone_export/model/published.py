"""The published architectures, for plans and trials without a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .families import EXAONE3, EXAONE_MOE
from .sparse_mlp import SparseMlp
from .spec import DENSE, FULL_ATTENTION, SLIDING_ATTENTION, SPARSE, ModelSpec, RopeSpec

__all__ = ["CHECKPOINT_TYPES", "PUBLISHED"]


def _rope(factor: float) -> RopeSpec:
    numbers = {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }
    return RopeSpec("llama3", 1_000_000.0, tuple(numbers.items()))


def _exaone3(hidden_size: int, intermediate_size: int, layers: int, heads: int, head_dim: int, tied: bool) -> ModelSpec:
    return ModelSpec(
        model_type=EXAONE3.model_type,
        vocab_size=102_400,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=head_dim,
        rms_norm_eps=1e-5,
        max_position_embeddings=32_768,
        layer_types=(FULL_ATTENTION,) * layers,
        sliding_window=None,
        rope=_rope(8.0),
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_ids=(361,),
        pad_token_id=0,
        dtype="bfloat16",
    )


_EXAONE4: Mapping[str, ModelSpec] = {
    "1.2b": ModelSpec(
        vocab_size=102_400,
        hidden_size=2048,
        intermediate_size=4096,
        num_hidden_layers=30,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        rms_norm_eps=1e-5,
        max_position_embeddings=65_536,
        layer_types=(FULL_ATTENTION,) * 30,
        sliding_window=None,
        rope=_rope(16.0),
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(361,),
        pad_token_id=0,
        dtype="bfloat16",
    ),
    "32b": ModelSpec(
        vocab_size=102_400,
        hidden_size=5120,
        intermediate_size=27_392,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        head_dim=128,
        rms_norm_eps=1e-5,
        max_position_embeddings=131_072,
        layer_types=(*(SLIDING_ATTENTION,) * 3, FULL_ATTENTION) * 16,
        sliding_window=4096,
        rope=_rope(16.0),
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_ids=(361,),
        pad_token_id=0,
        dtype="bfloat16",
    ),
}

_K_EXAONE = ModelSpec(
    model_type=EXAONE_MOE.model_type,
    vocab_size=153_600,
    hidden_size=6144,
    intermediate_size=18_432,
    num_hidden_layers=48,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    max_position_embeddings=262_144,
    layer_types=(*(SLIDING_ATTENTION,) * 3, FULL_ATTENTION) * 12,
    sliding_window=128,
    rope=RopeSpec("default", 1_000_000.0),
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_ids=(53,),
    pad_token_id=0,
    dtype="bfloat16",
    mlp_layer_types=(DENSE, *(SPARSE,) * 47),
    sparse_mlp=SparseMlp(
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=2048,
        num_shared_experts=1,
        routed_scaling_factor=2.5,
    ),
)

PUBLISHED: Mapping[str, ModelSpec] = {
    **_EXAONE4,
    "3.5-2.4b": _exaone3(2560, 7168, 30, 32, 80, tied=True),
    "3.5-7.8b": _exaone3(4096, 14_336, 32, 32, 128, tied=False),
    "3.5-32b": _exaone3(5120, 27_392, 64, 40, 128, tied=False),
    "4.5-33b": dataclasses.replace(_EXAONE4["32b"], vocab_size=153_600, max_position_embeddings=262_144),
    "236b-a23b": _K_EXAONE,
}
"""The architectures of EXAONE 4.0, by size alone, of EXAONE 3.5, of the language model of EXAONE 4.5, of K-EXAONE."""

CHECKPOINT_TYPES: Mapping[str, str] = {
    **{name: spec.model_type for name, spec in PUBLISHED.items()},
    "4.5-33b": "exaone4_5",
}
"""The ``model_type`` of their checkpoints, which may hold more than the language model."""
