"""The head that ``config.json`` describes, or that is chosen where it names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..families import EXAONE4, FAMILIES, Family
from ..heads import (
    ARCHITECTURES,
    CAUSAL_LM,
    CLASSIFICATIONS,
    HIDDEN_STATES,
    MOST_LABELS,
    PROBLEM_TYPES,
    QUESTION_ANSWERING,
    TOKEN_CLASSIFICATION,
    HeadSpec,
)
from .spelling import respell
from .values import flag, integer, show

__all__ = ["choose_head", "read_head", "read_kind"]

_DEFAULT_LABELS = 2  # of transformers' PreTrainedConfig
_HIDDEN_STATES = "output_hidden_states"
_BIAS = "token_classification_bias"  # true in transformers where it is absent


def read_kind(config: Mapping[str, Any]) -> str | None:
    """The kind of head that ``architectures`` names; None where it names none.

    Raises:
        ConfigError: It names a class that has no exporter.
    """
    architectures = config.get("architectures") or []
    names = architectures if isinstance(architectures, list) else []
    kinds = _family(config).kinds
    known = [name for name in names if isinstance(name, str) and name in kinds]
    if architectures and not known:
        raise ConfigError(
            f"architectures is {show(architectures)}, and only {', '.join(kinds)} can be exported; choose a "
            f"checkpoint of one of these."
        )
    return kinds[known[0]] if known else None


def _family(config: Mapping[str, Any]) -> Family:
    model_type = config.get("model_type")
    return FAMILIES.get(model_type, EXAONE4) if isinstance(model_type, str) else EXAONE4


def choose_head(config: Mapping[str, Any], kind: str | None = None, *, hidden_states: bool = False) -> dict[str, Any]:
    """The config of the same language model, in one spelling, under a head that is chosen.

    Args:
        config: The content of a ``config.json``.
        kind: A key of `ARCHITECTURES`, where ``architectures`` names no head or the bare model; None for the head that
            it names, or a causal language model where it names none. The bare model can be chosen of every checkpoint.
        hidden_states: Whether the bare model is also to give what every layer takes in.

    Raises:
        ConfigError: The choice is unknown or another head than the file's, or the hidden states are of no bare model.
    """
    if kind is not None and kind not in ARCHITECTURES:
        raise ConfigError(f"head is {show(kind)}, and only {', '.join(ARCHITECTURES)} are known; pass one of these.")
    config = respell(config)
    found, family = read_kind(config), _family(config)
    if kind not in (None, HIDDEN_STATES, found) and found not in (None, HIDDEN_STATES):
        raise ConfigError(
            f"the checkpoint is of {family.architecture(found)}, and not of {family.architecture(str(kind))}; leave "
            f"--head {kind} out for its own head, or pass --head {HIDDEN_STATES} for the last hidden states."
        )
    chosen = {**config, "architectures": [family.architecture(kind or found or CAUSAL_LM)]}
    if not hidden_states:
        return chosen
    if (kind or found) != HIDDEN_STATES:
        raise ConfigError(
            f"the hidden states of all layers are given by the bare model alone; pass --head {HIDDEN_STATES}, or "
            f"leave --hidden-states out."
        )
    return chosen | {_HIDDEN_STATES: True}


def read_head(config: Mapping[str, Any]) -> HeadSpec:
    """Read the head of a ``config.json``: a causal language model where it names none.

    Raises:
        ConfigError: It names a class that has no exporter, or the labels contradict each other.
    """
    kind = read_kind(config) or CAUSAL_LM
    if kind == HIDDEN_STATES:
        return HeadSpec(kind, hidden_states=flag(config, _HIDDEN_STATES))
    if kind not in CLASSIFICATIONS:
        return HeadSpec(kind, bias=kind == QUESTION_ANSWERING)
    labels = _labels(config)
    if kind == TOKEN_CLASSIFICATION:
        return HeadSpec(kind, labels, bias=flag({_BIAS: True, **config}, _BIAS))
    return HeadSpec(kind, labels, _problem_type(config))


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    names, count = config.get("id2label"), config.get("num_labels")
    if names is None:
        count = _DEFAULT_LABELS if count is None else integer(count, "num_labels", maximum=MOST_LABELS)
        return tuple(f"LABEL_{number}" for number in range(count))
    if not isinstance(names, dict) or not 1 <= len(names) <= MOST_LABELS:
        raise ConfigError(
            f'id2label is {show(names)}, not labels by number ({{"0": "…", "1": "…"}}); correct config.json.'
        )
    labels = [names.get(str(number)) for number in range(len(names))]
    wrong = next((number for number, label in enumerate(labels) if not isinstance(label, str | int)), None)
    if wrong is not None:
        raise ConfigError(
            f"id2label has {len(names)} entries and no label for {wrong}; number the labels of config.json from 0 on."
        )
    if count is not None and count != len(names):
        raise ConfigError(
            f"num_labels is {show(count)} and id2label has {len(names)} entries; correct config.json, or leave "
            f"num_labels out."
        )
    return tuple(map(str, labels))


def _problem_type(config: Mapping[str, Any]) -> str | None:
    found = config.get("problem_type")
    if found is not None and found not in PROBLEM_TYPES:
        raise ConfigError(
            f"problem_type is {show(found)}, and only {', '.join(PROBLEM_TYPES)} are known; correct config.json."
        )
    return found
