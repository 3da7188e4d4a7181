"""The tensors of a head: whether a checkpoint has those of the model's head, and of no other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exaone_export.errors import CheckpointError
from exaone_export.model.families import Family
from exaone_export.model.heads import (
    CAUSAL_LM,
    HEAD_MODULES,
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from exaone_export.model.spec import ModelSpec

from .prequantized.form import Stored
from .safetensors_file import TensorInfo
from .weight_files import first_names

__all__ = ["HEAD_PREFIXES", "check_head"]

HEAD_PREFIXES = tuple(f"{module}." for module in HEAD_MODULES)
"""What the names of heads' tensors begin with."""

_WITHOUT = f"pass --head {HIDDEN_STATES} to leave the head out"


def _owner(family: Family, tensor: str) -> str:
    """The class whose head a tensor is of, or the two of them."""
    kinds = {"lm_head": [CAUSAL_LM], "score": [SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION]}
    return " or ".join(map(family.architecture, kinds.get(tensor.partition(".")[0], [QUESTION_ANSWERING])))


def check_head(found: Mapping[str, TensorInfo], expected: Mapping[str, Stored], folder: Path, spec: ModelSpec) -> None:
    """Raise CheckpointError unless the tensors of heads are those of the model's head."""
    head, architecture = spec.head, spec.architecture
    if head.module is None:
        return
    missing = [name for name, stored in expected.items() if stored.required and name not in found]
    missing_heads = [name for name in missing if name.startswith(HEAD_PREFIXES)]
    extra = [name for name in found if name.startswith(HEAD_PREFIXES) and name not in expected]
    others = [name for name in extra if not name.startswith(f"{head.module}.")]
    weight, bias = f"{head.module}.weight", f"{head.module}.bias"
    if others and not missing_heads:
        raise CheckpointError(
            f"{folder} has {first_names(others)} besides the head of {architecture}; remove the one that is not "
            f"wanted from the checkpoint, or pass --head {HIDDEN_STATES} to leave both out."
        )
    if others:
        owner = _owner(spec.family, others[0])
        raise CheckpointError(
            f"{folder} has {first_names(others)}, the head of another model than {architecture}; name the class "
            f"that has it in architectures of config.json ({owner}), or {_WITHOUT}."
        )
    if extra == [bias]:
        fix = (
            "set token_classification_bias to true in config.json"
            if head.kind == TOKEN_CLASSIFICATION
            else f"if it is a classifier of tokens, name {spec.family.architecture(TOKEN_CLASSIFICATION)} in "
            f"architectures of config.json"
        )
        raise CheckpointError(f"{folder} has {bias}, and its {architecture} has no bias; {fix}, or {_WITHOUT}.")
    if missing != missing_heads or not missing:
        _check_labels(weight, found, expected, folder, spec)
        return
    fix = "give the checkpoint of the whole model"
    if head.is_causal_lm:
        fix = "where the embedding is the vocabulary projection too, set tie_word_embeddings to true in config.json"
    elif missing == [bias] and head.kind == TOKEN_CLASSIFICATION:
        fix = "where it has no bias, set token_classification_bias to false in config.json"
    raise CheckpointError(
        f"{folder} lacks {first_names(missing)}, which {architecture} has; {fix}, or pass --head {HIDDEN_STATES} "
        f"for the last hidden states."
    )


def _check_labels(
    weight: str, found: Mapping[str, TensorInfo], expected: Mapping[str, Stored], folder: Path, spec: ModelSpec
) -> None:
    head = spec.head
    shape, wanted = (found[weight].shape, expected[weight].shapes[0]) if weight in found else ((), ())
    if head.labels and shape[1:] == wanted[1:] and shape != wanted:
        raise CheckpointError(
            f"{weight} of {folder} is for {shape[0]} labels, and its config.json gives {len(head.labels)}; give "
            f"id2label of config.json one label for each output."
        )
