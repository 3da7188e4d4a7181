"""Checkpoint and prompts to a scales file: read, stream, choose ranges, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from exaone_export.calibration.ranges import maximum
from exaone_export.calibration.statistics import observe_inputs
from exaone_export.errors import CalibrationError
from exaone_export.exporter.calibration_data import hash_of, read_prompts
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.layer_stream import stream_layers
from exaone_export.exporter.scales_file import CalibrationData, ProductRange, ScalesFile, check_destination
from exaone_export.precision import PRECISIONS
from exaone_export.runtime.text import load_tokenizer

__all__ = ["SAMPLES", "SEQ_LENGTH", "calibrate", "measure_ranges"]

SAMPLES, SEQ_LENGTH = 128, 512

Progress = Callable[[str, int, int], None]


def calibrate(
    model: str | Path,
    out: str | Path,
    *,
    data: str | Path,
    samples: int = SAMPLES,
    seq_length: int = SEQ_LENGTH,
    max_tokens: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ScalesFile:
    """Run prompts through a checkpoint in float32 and write the largest magnitude that each product takes in.

    In memory are one layer's weights and every prompt's hidden states: four bytes times the hidden size a token.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        out: The scales file to make; it appears whole or not at all.
        data: Prompts and chats, as `exaone_export.exporter.calibration_data.read_prompts` reads them.
        samples: The most lines that are read.
        seq_length: Where each is cut, in tokens.
        max_tokens: Where all of them together are cut; None for nowhere.
        revision: Of a hub id.
        overwrite: Whether a file that stands at ``out`` may be replaced.
        progress: Told how far the work is.

    Returns:
        What was written.

    Raises:
        CalibrationError: The data cannot be used, a range cannot, or the file cannot be written.
        CheckpointError: The checkpoint is damaged or holds a value that is not finite.
    """
    out, data = Path(out).expanduser(), Path(data).expanduser()
    check_destination(out, overwrite=overwrite)
    checkpoint = Checkpoint.open(model, revision)
    spec = checkpoint.spec
    seq_length = min(seq_length, spec.max_position_embeddings)
    prompts = read_prompts(
        data, load_tokenizer(checkpoint.folder), samples=samples, seq_length=seq_length, max_tokens=max_tokens
    )
    if (largest := max(int(prompt.max()) for prompt in prompts)) >= spec.vocab_size:
        raise CalibrationError(
            f"the tokenizer gives token {largest}, and the model knows {spec.vocab_size}; give the folder its own "
            f"tokenizer."
        )
    sha256 = hash_of(data)  # now, because the file may change in the hour that a large model takes
    scales = ScalesFile(
        method="max",
        formats=tuple(sorted({str(choice.activations) for choice in PRECISIONS.values() if choice.activations})),
        source={"name": checkpoint.name, "revision": checkpoint.revision, "fingerprint": checkpoint.fingerprint()},
        data=CalibrationData(
            sha256=sha256,
            samples=len(prompts),
            tokens=sum(prompt.numel() for prompt in prompts),
            seq_length=seq_length,
        ),
        ranges=measure_ranges(checkpoint, prompts, progress),
    )
    return scales.write(out, overwrite=overwrite)


def measure_ranges(
    checkpoint: Checkpoint, prompts: Sequence[torch.Tensor], progress: Progress | None = None
) -> tuple[dict[str, ProductRange], ...]:
    """Ranges of the inputs of every layer's products, by part, for prompts ``[B, S]`` int64 without padding."""
    ranges, done, total = [], 0, checkpoint.spec.num_hidden_layers * len(prompts)

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("calibrate", done, total)

    for streamed in stream_layers(checkpoint, prompts):
        with observe_inputs(streamed.products) as seen:
            streamed.run(step)
        ranges.append({part: ProductRange(maximum(found), found.channel_maximum) for part, found in seen.items()})
    return tuple(ranges)
