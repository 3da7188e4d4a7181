"""The published architectures, for plans and trials without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from .spec import FULL_ATTENTION, SLIDING_ATTENTION, ModelSpec, RopeSpec

__all__ = ["PUBLISHED"]

_PUBLISHED_ROPE = RopeSpec(
    "llama3",
    1_000_000.0,
    (
        ("factor", 16.0),
        ("high_freq_factor", 4.0),
        ("low_freq_factor", 1.0),
        ("original_max_position_embeddings", 8192),
    ),
)

PUBLISHED: Mapping[str, ModelSpec] = {
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
        rope=_PUBLISHED_ROPE,
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
        rope=_PUBLISHED_ROPE,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_ids=(361,),
        pad_token_id=0,
        dtype="bfloat16",
    ),
}
"""The architectures of EXAONE 4.0, by size."""
