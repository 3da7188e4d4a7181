"""The options of a prediction, and the heads that each belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import TargetError, UnsupportedOptionError
from exaone_export.model.heads import (
    HIDDEN_STATES,
    POOLINGS,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)

__all__ = ["AGGREGATIONS", "FORMS", "MOST_ANSWER_TOKENS", "Options", "check_head", "rows_at_once"]

AGGREGATIONS = ("none", "simple", "first", "average", "max")
"""How tokens become entities, as transformers' ``TokenClassificationPipeline`` names it."""

FORMS = ("jsonl", "text")
"""How the lines of a file are written."""

MOST_ANSWER_TOKENS = 1024
_DEFAULT_BATCH = 8

_HEADS_OF: Mapping[str, tuple[str, ...]] = {
    "top_k": (SEQUENCE_CLASSIFICATION, QUESTION_ANSWERING),
    "aggregation": (TOKEN_CLASSIFICATION,),
    "max_answer_tokens": (QUESTION_ANSWERING,),
    "pooling": (HIDDEN_STATES,),
    "normalize": (HIDDEN_STATES,),
}


@dataclass(frozen=True)
class Options:
    """What is made of the outputs; None for the default.

    Attributes:
        top_k: Scores of a sequence classification that are given, all by default; or answers to a question, besides
            the best.
        aggregation: One of `AGGREGATIONS`; ``simple`` by default.
        max_answer_tokens: The longest answer to a question; 32 by default.
        pooling: One of `POOLINGS`, the last token's vector by default, or the mean of all.
        normalize: Whether vectors are scaled to unit length.
    """

    top_k: int | None = None
    aggregation: str | None = None
    max_answer_tokens: int | None = None
    pooling: str | None = None
    normalize: bool = False

    def __post_init__(self) -> None:
        """Raise UnsupportedOptionError for a value that there is not."""
        for name, known in {"aggregation": AGGREGATIONS, "pooling": POOLINGS}.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise UnsupportedOptionError(f"{name} is {value!r}, and only {', '.join(known)} are known.")
        for name in ("top_k", "max_answer_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UnsupportedOptionError(f"{name} is {value}; it must be at least 1, or omitted.")


def check_head(artifact: Artifact, options: Options) -> None:
    """Refuse an artifact that has nothing to predict, and options of other heads.

    Raises:
        TargetError: It is a causal language model.
        UnsupportedOptionError: An option is not of the artifact's head.
    """
    head = artifact.spec.head
    if head.is_causal_lm:
        raise TargetError(
            f"{artifact.folder} is of {artifact.spec.architecture}, which gives the next token; run: exaone-export "
            f"generate {artifact.folder}, or for vectors of texts export the checkpoint again with --head "
            f"{HIDDEN_STATES}."
        )
    for name, value in asdict(options).items():
        if value not in (None, False) and head.kind not in _HEADS_OF[name]:
            raise UnsupportedOptionError(
                f"--{name.replace('_', '-')} is for {' and '.join(_HEADS_OF[name])}, and the head of {artifact.folder} "
                f"is {head.kind}; leave it out."
            )


def rows_at_once(artifact: Artifact, batch: int | None) -> int:
    """The rows of a batch.

    Args:
        artifact: The opened artifact.
        batch: As requested; None for 8, or as many as the artifact takes.

    Raises:
        UnsupportedOptionError: The artifact does not take so many.
    """
    if batch is not None and batch < 1:
        raise UnsupportedOptionError(f"--batch is {batch}, and a batch has at least one text; pass 1 or more.")
    engine, spec = artifact.engine, artifact.spec
    most = None if engine is None else min(profile.batch.maximum for profile in engine.profiles)
    why = "its engine was built for; build it again for more"
    if spec.head.kind == SEQUENCE_CLASSIFICATION and spec.pad_token_id is None:
        # transformers takes the last token that differs from it, and refuses larger batches too.
        most = 1
        why = "can be classified without a pad_token_id; add it to the checkpoint's config.json and export again"
    if most is not None and batch is not None and batch > most:
        raise UnsupportedOptionError(f"--batch is {batch}, and {most} is the most that {why}, or pass --batch {most}.")
    return batch or min(_DEFAULT_BATCH, most or _DEFAULT_BATCH)
