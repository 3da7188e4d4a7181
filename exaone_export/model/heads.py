"""What stands on the body of a model: the vocabulary, labels, a span's two ends, or nothing but the last norm.

The six classes that transformers has for EXAONE 4 are one body under these heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ARCHITECTURES",
    "CAUSAL_LM",
    "CAUSAL_LM_HEAD",
    "CLASSIFICATIONS",
    "CLASS_SUFFIXES",
    "HEAD_MODULES",
    "HIDDEN_STATES",
    "MOST_LABELS",
    "NEXT_LOGITS",
    "POOLINGS",
    "PROBLEM_TYPES",
    "QUESTION_ANSWERING",
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "HeadSpec",
]

CAUSAL_LM = "causal-lm"
HIDDEN_STATES = "hidden-states"
SEQUENCE_CLASSIFICATION = "sequence-classification"
TOKEN_CLASSIFICATION = "token-classification"
QUESTION_ANSWERING = "question-answering"

CLASSIFICATIONS = (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION)
"""Those with labels."""

NEXT_LOGITS = "next_logits"
"""What a causal language model's graph gives of the last position alone, where it opens in other programs too."""

MOST_LABELS = 1 << 16
"""Of a classification."""

CLASS_SUFFIXES: Mapping[str, str] = {
    CAUSAL_LM: "ForCausalLM",
    HIDDEN_STATES: "Model",
    SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    TOKEN_CLASSIFICATION: "ForTokenClassification",
    QUESTION_ANSWERING: "ForQuestionAnswering",
}
"""By the kind of a head, what the name of transformers' class ends with, in every family."""

ARCHITECTURES: Mapping[str, str] = {kind: f"Exaone4{suffix}" for kind, suffix in CLASS_SUFFIXES.items()}
"""By the kind of a head, transformers' class of EXAONE 4."""

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
"""What the logits of a sequence classification can mean, as transformers names it."""

POOLINGS = ("last", "mean")
"""How a text's hidden states become its vector: that of the last token, or the mean of all."""


@dataclass(frozen=True)
class HeadSpec:
    """The head of a model.

    Attributes:
        kind: A key of `ARCHITECTURES`.
        labels: Of a classification, by number; empty otherwise.
        problem_type: Of a sequence classification, one of `PROBLEM_TYPES`; None where the config does not say.
        bias: Whether a bias is added: always by question answering, by a classification of tokens where its config says
            so, and never by the others.
        hidden_states: Whether the bare model also gives what every layer takes in, as ``output_hidden_states``.
    """

    kind: str = CAUSAL_LM
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    bias: bool = False
    hidden_states: bool = False

    @property
    def is_causal_lm(self) -> bool:
        """Whether the logits are those of the next token."""
        return self.kind == CAUSAL_LM

    @property
    def module(self) -> str | None:
        """What a checkpoint calls the product; None where there is none."""
        return _MODULES[self.kind]

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a graph calls what the head gives, as transformers names it."""
        return {HIDDEN_STATES: ("last_hidden_state",), QUESTION_ANSWERING: ("start_logits", "end_logits")}.get(
            self.kind, ("logits",)
        )

    def to_config(self) -> dict[str, Any]:
        """What ``config.json`` says of it beside ``architectures``, as transformers writes it."""
        if self.hidden_states:
            return {"output_hidden_states": True}
        if not self.labels:
            return {}
        names = {
            "id2label": {str(number): label for number, label in enumerate(self.labels)},
            "label2id": {label: number for number, label in enumerate(self.labels)},
        }
        if self.kind == TOKEN_CLASSIFICATION:
            return {**names, "token_classification_bias": self.bias}
        return {**names, "problem_type": self.problem_type}


CAUSAL_LM_HEAD = HeadSpec()
"""The head of a causal language model."""

HEAD_MODULES = ("lm_head", "score", "qa_outputs")
"""What checkpoints call the products of heads."""

_MODULES: Mapping[str, str | None] = {
    CAUSAL_LM: "lm_head",
    HIDDEN_STATES: None,
    SEQUENCE_CLASSIFICATION: "score",
    TOKEN_CLASSIFICATION: "score",
    QUESTION_ANSWERING: "qa_outputs",
}
