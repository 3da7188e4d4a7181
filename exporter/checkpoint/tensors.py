"""Which tensors a checkpoint must have, and which it may have besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from exaone_export.errors import CheckpointError
from exaone_export.model.tensors import HEAD_TENSOR

from .prequantized.form import Stored
from .safetensors_file import TensorInfo
from .weight_files import first_names

__all__ = ["check_tensors", "is_buffer"]

# Older programs save what they compute from the config: rotary frequencies and tables, positions, a mask's constant.
_BUFFER = re.compile(
    r"(.+\.)?(rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)|position_ids|masked_bias)"
)
_MATCHING = "choose the matching config"


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
    if missing == [HEAD_TENSOR]:
        raise CheckpointError(
            f"{folder} lacks {HEAD_TENSOR}, which its config.json calls for; where the embedding is the vocabulary "
            f"projection too, set tie_word_embeddings to true in config.json."
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
