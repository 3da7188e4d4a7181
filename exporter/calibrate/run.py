"""Checkpoint and prompts to a scales file: read, run each layer and find its scales, choose precise layers, write."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

import exaone_export
from exaone_export.errors import CalibrationError
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS
from exaone_export.progress import Notice, Progress, Step
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.targets.precision import KEPT_FLOAT
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.prequantized.recipe import own_precision
from ..reference.layer_stream import stream_layers
from .batches import Batch, batches
from .data import Sample, check_vocabulary, hash_of, read_samples
from .head import round_head
from .keep import KlProbe, choose_kept
from .layer_work import KEPT_PREFIX, LayerWork
from .options import WEIGHTS_STAY, Options, check_destination
from .scales.file import (
    SCHEMA_VERSION,
    CalibrationData,
    ProductRange,
    ScalesFile,
    Sensitivity,
    SliceReach,
    WeightRounding,
)
from .scales.layout import tensor_name
from .smoothing import folded
from .state import CalibrationState, LayerResult

__all__ = ["Options", "calibrate", "measure_ranges"]


def calibrate(
    model: str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    data: str | Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    notice: Notice | None = None,
    **fields: Any,
) -> ScalesFile:
    """Run prompts through a checkpoint in float32 and write the scales that quantization needs.

    In memory are one layer's weights with their statistics, and every prompt's hidden states: four bytes times the
    hidden size per token. Progress is stored in a folder beside ``out`` until the file is written; a run that was
    killed or failed continues from it, and writes the same bytes as an uninterrupted one.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        out: The scales file to make; it appears whole or not at all.
        options: The options of the calibration; the ranges of int8 and fp8 inputs by default.
        data: Prompts and chats, as `exaone_export.exporter.calibrate.data.read_samples` reads them.
        overwrite: Whether a file at ``out`` may be replaced.
        progress: Told how far the work is.
        notice: Told whether an earlier run's work is continued or discarded.
        fields: Fields of `Options`, such as ``precision`` and ``samples``, which replace those of ``options``.

    Returns:
        What was written.

    Raises:
        CalibrationError: The data or a range is invalid, or the file cannot be written.
        CheckpointError: The checkpoint is damaged or holds a value that is not finite.
        ConfigError: The model's sizes do not fit the precision's blocks.
    """
    out, data, options = Path(out).expanduser(), Path(data).expanduser(), replace(options or Options(), **fields)
    check_destination(out, overwrite=overwrite)
    checkpoint = Checkpoint.open(model, options.revision, head=options.head)
    spec = checkpoint.spec
    if spec.sparse_mlp is not None:
        raise CalibrationError(
            f"{checkpoint.name} has sparse layers, whose experts cannot be calibrated; export it without one: run "
            f"exaone-export export MODEL OUT --target ort-cpu --precision int4, which rounds to the nearest."
        )
    if options.measure == "kl" and not spec.head.is_causal_lm:
        raise CalibrationError(
            f"sensitivity kl compares next tokens, and {spec.architecture} gives none; pass --sensitivity error."
        )
    if options.precision is not None:  # refuse now what the export would refuse
        Recipe.plan(spec, options.precision, "float32")
        if checkpoint.quantization is not None:
            if options.changes_weights:
                raise CalibrationError(WEIGHTS_STAY)
            own = own_precision(checkpoint.quantization, get_target("tensorrt"))
            if options.precision != own:
                raise CalibrationError(
                    f"the checkpoint is already quantized to {own}, and {options.precision} would round it a second "
                    f"time; leave --precision out."
                )
    seq_length = min(options.seq_length, spec.max_position_embeddings)
    sha256 = hash_of(data)  # now, because the file may change while a large model runs for hours
    tokenizer = load_tokenizer(checkpoint.folder)
    read = read_samples(data, tokenizer, samples=options.samples, seq_length=seq_length, max_tokens=options.max_tokens)
    checkpoint.check_unchanged()  # the tokenizer was read by its path
    check_vocabulary((sample.tokens for sample in read), spec.vocab_size)
    tokens = sum(sample.tokens.numel() for sample in read)
    source = {"name": checkpoint.name, "revision": checkpoint.revision, "fingerprint": checkpoint.fingerprint()}
    counted = CalibrationData(sha256=sha256, samples=len(read), tokens=tokens, seq_length=seq_length)
    inputs = {
        "versions": [exaone_export.__version__, SCHEMA_VERSION, torch.__version__],
        "source": source,
        "changed": checkpoint.changed,
        "data": msgspec.structs.asdict(counted),
        "samples": _hash_of_samples(read),
        "options": options.choices,
    }
    with CalibrationState(out, inputs, notice or _silent) as state:
        divergences = _work(checkpoint, batches(read), options, state, progress)
        results = state.results()
        sensitivity = _sensitivity(options, results, divergences)
        kept = {} if sensitivity is None else choose_kept(spec, options, sensitivity.layers)
        scales = ScalesFile(
            method=options.method,
            formats=options.formats,
            source=source,
            data=counted,
            ranges=tuple(map(_ranges, results)),
            precision=options.precision,
            weights=_rounding(checkpoint, options),
            smoothed=_smoothed(spec, options),
            cache_format=options.cache,
            kept=kept,
            sensitivity=sensitivity,
            slices=_slices(read, results),
            tensors=_tensors(results, kept) | _head(checkpoint, options, state),
        )
        checkpoint.check_weights_unchanged()
        return scales.write(out, overwrite=overwrite, staged=state.staged)


def measure_ranges(
    checkpoint: Checkpoint, prompts: Sequence[torch.Tensor], progress: Progress | None = None
) -> tuple[dict[str, ProductRange], ...]:
    """Ranges of the inputs of every layer's products, by part, for prompts ``[B, S]`` int64 without padding."""
    found = [Batch(prompt, "") for prompt in prompts]
    step = Step(progress, "calibrate", checkpoint.spec.num_hidden_layers * len(prompts))
    work = LayerWork(checkpoint.spec, Options(), found, step)
    return tuple(_ranges(work.run(streamed)[0]) for streamed in stream_layers(checkpoint, prompts))


def _work(
    checkpoint: Checkpoint,
    found: Sequence[Batch],
    options: Options,
    state: CalibrationState,
    progress: Progress | None,
) -> tuple[float, ...] | None:
    """Calibrate every unfinished layer into the state, and return the divergences that the probe measured."""
    spec, prompts = checkpoint.spec, [batch.tokens for batch in found]
    resumed, held = None, None
    if state.finished:
        hidden = state.hidden()
        resumed = (state.finished, [hidden.pop(f"batch.{i}") for i in range(len(found))])
        held = hidden
    probe = KlProbe(checkpoint, found, held) if options.measure == "kl" else None
    per_layer = options.passes * sum(len(prompt) for prompt in prompts)
    step = Step(progress, "calibrate", spec.num_hidden_layers * per_layer, done=state.finished * per_layer)
    work = LayerWork(spec, options, found, step)
    for streamed in stream_layers(checkpoint, prompts, resumed):
        result, weights = work.run(streamed)
        if probe is not None:
            probe.advance(streamed, work.simulated(streamed, weights, result))
        hidden = {f"batch.{i}": states for i, states in enumerate(streamed.hidden)}
        checkpoint.check_weights_unchanged()  # before results that depend on them are stored
        state.save(streamed.index, result, hidden | (probe.tensors if probe else {}))
    return None if probe is None else probe.divergences()


def _sensitivity(
    options: Options, results: Sequence[LayerResult], divergences: tuple[float, ...] | None
) -> Sensitivity | None:
    if options.measure is None:
        return None
    return Sensitivity(options.measure, divergences or tuple(result.facts["sensitivity"] for result in results))


def _hash_of_samples(samples: Sequence[Sample]) -> str:
    """Hash of the data's tokens."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.slice}\n{sample.tokens.tolist()}\n".encode())
    return digest.hexdigest()


def _ranges(result: LayerResult) -> dict[str, ProductRange]:
    return {
        part: ProductRange(result.tensors[f"{part}.range"].item(), result.tensors[f"{part}.channel_maximum"])
        for part in PROJECTIONS
    }


def _rounding(checkpoint: Checkpoint, options: Options) -> WeightRounding | None:
    if options.rounding is None:
        return None
    blocks = Recipe.plan(checkpoint.spec, str(options.precision), "float32").blocks
    return WeightRounding(options.rounding, dict(blocks), options.signed_scales)


def _smoothed(spec: ModelSpec, options: Options) -> tuple[str, ...]:
    if options.smooth == "fold":
        return folded(spec)
    return tuple(PROJECTIONS) if options.smooth == "explicit" or options.rounding == "awq" else ()


def _slices(samples: Sequence[Sample], results: Sequence[LayerResult]) -> dict[str, SliceReach]:
    lines = Counter(sample.slice for sample in samples)
    tokens: Counter[str] = Counter()
    for sample in samples:
        tokens[sample.slice] += sample.tokens.numel()
    found = {}
    for label in sorted(lines):
        reach = {part: tuple(result.facts["reach"][part][label] for result in results) for part in PROJECTIONS}
        found[label] = SliceReach(lines[label], tokens[label], reach)
    return found


def _tensors(results: Sequence[LayerResult], kept: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """All tensors but the ranges, by their names in the file; a kept layer has the weights of its own precision."""
    found = {}
    for layer, result in enumerate(results):
        for name, tensor in result.tensors.items():
            part, what = name.split(".")
            if what in ("range", "channel_maximum"):
                continue
            if what.removeprefix(KEPT_PREFIX) in ("values", "scale"):
                if kept.get(layer) == KEPT_FLOAT or what.startswith(KEPT_PREFIX) != (layer in kept):
                    continue
                what = what.removeprefix(KEPT_PREFIX)
            found[tensor_name(layer, part, what)] = tensor
    return found


def _head(checkpoint: Checkpoint, options: Options, state: CalibrationState) -> dict[str, torch.Tensor]:
    """The vocabulary projection, if its weights are rounded by its inputs."""
    if options.rounding != "gptq" or options.precision != "int4" or not checkpoint.spec.head.is_causal_lm:
        return {}
    hidden = [states for name, states in state.hidden().items() if name.startswith("batch.")]
    return round_head(checkpoint, hidden, signed_scales=options.signed_scales)


def _silent(_sentence: str) -> None:
    """Drop the sentence."""
