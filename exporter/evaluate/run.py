"""Artifact, checkpoint and held-out data to an evaluation: read, open both sides, run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import CalibrationError, ConfigError
from exaone_export.progress import Progress
from exaone_export.runtime.mirror.pretrained import check_gpu
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.parity.evaluation import Evaluation, Sample, Thresholds, evaluate
from exaone_export.runtime.parity.sides import artifact_side

from ..calibrate.data import check_vocabulary, hash_of
from ..checkpoint.checkpoint import Checkpoint
from ..option_types import convert_types
from ..reference.side import transformers_side
from .data import read_held_out

__all__ = ["SEQ_LENGTH", "ArtifactEvaluation", "EvaluationOptions", "evaluate_artifact"]

SEQ_LENGTH = 512


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of an evaluation.

    Attributes:
        samples: The most lines that are read; None for all.
        seq_length: Length in tokens that a line without an answer is cut to.
        thresholds: Limits that every slice must meet.
        generate: Whether answers are also generated; without it there is no accuracy.
        revision: Branch, tag or commit of a hub id.
        trusted_key: The public key that must have signed the artifact; see `Artifact.open`.

    Raises:
        UnsupportedOptionError: A value has another type.
    """

    samples: int | None = None
    seq_length: int = SEQ_LENGTH
    thresholds: Thresholds | None = None
    generate: bool = True
    revision: str | None = None
    trusted_key: str | Path | None = None

    def __post_init__(self) -> None:
        convert_types(self)


@dataclass(frozen=True)
class ArtifactEvaluation:
    """The evaluation of an artifact.

    Attributes:
        target: The artifact's.
        precision: The artifact's.
        data_sha256: Hash of the data file.
        result: The scores; the baseline is transformers in float32.
    """

    target: str
    precision: str
    data_sha256: str
    result: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        artifact = {"target": self.target, "precision": self.precision}
        return {"artifact": artifact, "data": {"sha256": self.data_sha256}, **self.result.to_dict()}


def evaluate_artifact(
    artifact: str | Path,
    model: str | Path,
    options: EvaluationOptions | None = None,
    *,
    data: str | Path,
    progress: Progress | None = None,
    **fields: Any,
) -> ArtifactEvaluation:
    """Compare an artifact with its checkpoint in transformers, float32, on held-out lines.

    In memory are both models, and the logits of one line from each: four bytes times the vocabulary per token.

    Args:
        artifact: A folder that an export has written.
        model: The checkpoint: a folder in Hugging Face form, or a hub id.
        options: The options of the evaluation.
        data: Prompts, chats and answers, as `exaone_export.exporter.evaluate.data.read_held_out` reads them.
        progress: Told how far the work is.
        fields: Fields of `EvaluationOptions`, which replace those of ``options``.

    Raises:
        ArtifactError: The folder is not an artifact, or is damaged.
        CalibrationError: The data is invalid, or has no answers although a threshold limits accuracy.
        CheckpointError: The checkpoint is damaged.
        ConfigError: The artifact was made from a model of another architecture.
    """
    options = replace(options or EvaluationOptions(), **fields)
    data, thresholds = Path(data).expanduser(), options.thresholds
    opened = Artifact.open(artifact, trusted_key=options.trusted_key)
    check_gpu(opened)
    checkpoint = Checkpoint.open(model, options.revision)
    if not (opened.spec.head.is_causal_lm and checkpoint.spec.head.is_causal_lm):
        other = next(found for found in (opened.spec, checkpoint.spec) if not found.head.is_causal_lm)
        raise ConfigError(
            f"an evaluation compares next tokens, and {other.architecture} gives none; compare it with: exaone-export "
            f"parity {artifact} MODEL."
        )
    if opened.spec.vocab_size != checkpoint.spec.vocab_size:
        raise ConfigError(
            f"the artifact has a vocabulary of {opened.spec.vocab_size} tokens and {checkpoint.name} one of "
            f"{checkpoint.spec.vocab_size}; give the checkpoint that it was exported from."
        )
    max_length = min(opened.manifest.cache["max_length"], checkpoint.spec.max_position_embeddings)
    tokenizer = load_tokenizer(checkpoint.folder)
    read = read_held_out(data, tokenizer, seq_length=options.seq_length, max_length=max_length, samples=options.samples)
    check_vocabulary((sample.tokens for sample in read), checkpoint.spec.vocab_size)
    if thresholds is not None and thresholds.min_accuracy is not None:
        _check_answers(read, data, options.generate)
    sha256 = hash_of(data)
    with transformers_side(checkpoint) as baseline, artifact_side(opened) as candidate:
        result = evaluate(baseline, candidate, read, thresholds, progress, generate=options.generate)
    return ArtifactEvaluation(opened.manifest.target, opened.manifest.precision, sha256, result)


def _check_answers(samples: Sequence[Sample], data: Path, generate: bool) -> None:
    if not generate:
        raise CalibrationError("accuracy is measured on generated answers; leave --no-generate or --min-accuracy out.")
    if all(sample.answer is None for sample in samples):
        raise CalibrationError(
            f"no line of {data} has an 'answer' to measure accuracy on; add one, or leave --min-accuracy out."
        )
