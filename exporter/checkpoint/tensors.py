"""Which tensors a checkpoint must have, and which it may have besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from exaone_export.errors import CheckpointError
from exaone_export.model.spec import ModelSpec

from .prequantized.form import Stored
from .safetensors_file import TensorInfo
from .weight_files import first_names

__all__ = ["EMBEDDING", "HEAD", "check_tensors", "expected_tensors", "is_buffer"]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

# Older programs save what they compute from the config: rotary frequencies and tables, positions, a mask's constant.
_BUFFER = re.compile(
    r"(.+\.)?(rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)|position_ids|masked_bias)"
)
_MATCHING = "choose the matching config"


def expected_tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this architecture has, with its shape; projections are ``[out, in]``."""
    hidden, feed_forward = spec.hidden_size, spec.intermediate_size
    queries = spec.num_attention_heads * spec.head_dim
    keys = spec.num_key_value_heads * spec.head_dim
    layer = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "self_attn.q_norm": (spec.head_dim,),
        "self_attn.k_norm": (spec.head_dim,),
        "mlp.gate_proj": (feed_forward, hidden),
        "mlp.up_proj": (feed_forward, hidden),
        "mlp.down_proj": (hidden, feed_forward),
        "post_attention_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
    }
    tensors: dict[str, tuple[int, ...]] = {EMBEDDING: (spec.vocab_size, hidden)}
    for index in range(spec.num_hidden_layers):
        tensors |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    tensors["model.norm.weight"] = (hidden,)
    if not spec.tie_word_embeddings:
        tensors[HEAD] = (spec.vocab_size, hidden)
    return tensors


def is_buffer(name: str) -> bool:
    """Whether a tensor is one that every program computes anew from the config, and transformers skips."""
    return _BUFFER.fullmatch(name) is not None


def check_tensors(found: Mapping[str, TensorInfo], expected: Mapping[str, Stored], folder: Path) -> None:
    """Raise CheckpointError unless the tensors are those that are expected.

    transformers skips tensors that its model has no name for and says so; here they are refused, because they may be
    what makes the checkpoint another model: biases, adapters, another head.
    """
    missing = [name for name, stored in expected.items() if stored.required and name not in found]
    extra = [name for name in found if name not in expected]
    if missing and not found.keys() & expected.keys():
        raise CheckpointError(
            f"{folder} has tensors of another layout ({first_names(extra)}), and only that of transformers' EXAONE 4 "
            f"can be exported; give the checkpoint in that form."
        )
    if missing == [HEAD]:
        raise CheckpointError(
            f"{folder} lacks {HEAD}, which its config.json calls for; where the embedding is the vocabulary projection "
            f"too, set tie_word_embeddings to true in config.json."
        )
    if missing:
        raise CheckpointError(f"{folder} lacks {first_names(missing)}, which its config.json calls for; {_MATCHING}.")
    if extra:
        raise CheckpointError(
            f"{folder} has {first_names(extra)}, which its config.json has no place for; {_MATCHING}."
        )
    wrong = []
    for name, info in found.items():
        stored = expected[name]
        if info.shape not in stored.shapes:
            wrong.append(f"{name} {list(info.shape)} in place of {list(stored.shapes[0])}")
        elif info.dtype not in stored.dtypes:
            wrong.append(f"{name} {info.dtype} in place of {' or '.join(stored.dtypes)}")
    if wrong:
        raise CheckpointError(f"{folder} does not fit its config.json: {first_names(wrong)}; {_MATCHING}.")
