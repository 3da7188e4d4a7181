"""Which tensors a checkpoint must have, and which it may have besides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from exaone_export.errors import CheckpointError
from exaone_export.model.heads import HIDDEN_STATES, QUESTION_ANSWERING, HeadSpec
from exaone_export.model.spec import ModelSpec
from exaone_export.model.stored_names import own_name
from exaone_export.model.tensors import EMBEDDING_TENSOR

from .head_tensors import HEAD_PREFIXES, check_head
from .prequantized.form import Stored
from .safetensors_file import TensorInfo
from .weight_files import first_names

__all__ = ["check_tensors", "is_buffer", "saved_name", "with_own_names"]

# Older programs save what they compute from the config: rotary frequencies and tables, positions, a mask's constant.
_BUFFER = re.compile(
    r"(.+\.)?(rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)|position_ids|masked_bias)"
)
_MATCHING = "choose the matching config"
_BODY = "model."
_OTHER_BODIES = {QUESTION_ANSWERING: "transformer.", HIDDEN_STATES: ""}
_BODIES = (_BODY, *_OTHER_BODIES.values())
_EMBEDDING = EMBEDDING_TENSOR.removeprefix(_BODY)


def is_buffer(name: str) -> bool:
    """Whether a tensor is one that every program computes anew from the config, and transformers skips."""
    return _BUFFER.fullmatch(name) is not None


def with_own_names(found: Mapping[str, TensorInfo], model_type: str) -> dict[str, TensorInfo]:
    """The tensors by the names that they have in a causal language model of `exaone_export.model.tensors`.

    transformers saves the bare model without a prefix, and the body of question answering under another one.

    Args:
        found: By their names in the files.
        model_type: Of the checkpoint's ``config.json``, as it is there.

    Raises:
        CheckpointError: Two tensors have the same name then.
    """
    named = [(own_name(name, model_type), info) for name, info in found.items()]
    names = {name for name, _ in named}
    prefix = next((one for one in _BODIES if f"{one}{_EMBEDDING}" in names), _BODY)
    renamed: dict[str, TensorInfo] = {}
    for name, info in named:
        is_body = name.startswith(prefix) and not name.startswith(HEAD_PREFIXES)
        known = f"{_BODY}{name.removeprefix(prefix)}" if is_body else name
        if (other := renamed.setdefault(known, info)) is not info:
            raise CheckpointError(
                f"{info.shard.parent} has both {other.name} and {info.name}, which name the same weight; remove one of "
                f"them."
            )
    return renamed


def saved_name(name: str, head: HeadSpec) -> str:
    """The name that transformers saves a tensor of `expected_tensors` under, in a model with this head."""
    return _OTHER_BODIES.get(head.kind, _BODY) + name.removeprefix(_BODY) if name.startswith(_BODY) else name


def check_tensors(
    found: Mapping[str, TensorInfo], expected: Mapping[str, Stored], folder: Path, spec: ModelSpec
) -> None:
    """Raise CheckpointError unless the tensors are those that are expected.

    transformers skips tensors that its model has no name for and says so; here they are refused, because they may be
    what makes the checkpoint another model: biases, adapters, another head.
    """
    missing = [name for name, stored in expected.items() if stored.required and name not in found]
    extra = [name for name in found if name not in expected]
    if missing and not found.keys() & expected.keys():
        raise CheckpointError(
            f"{folder} has tensors of another layout ({first_names(extra)}), and only that of transformers' "
            f"{spec.family.name} can be exported; give the checkpoint in that form."
        )
    check_head(found, expected, folder, spec)
    if missing:
        raise CheckpointError(
            f"{folder} lacks {first_names(missing)}, which its config.json calls for; download the checkpoint again, "
            f"or {_MATCHING}."
        )
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
