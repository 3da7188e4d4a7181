"""Checkpoint to artifact, in five steps: read, trace, rewrite, verify, write."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import onnx_ir as ir

import exaone_export
from exaone_export.artifact import sidecars
from exaone_export.artifact.manifest import SCHEMA_VERSION, Manifest
from exaone_export.artifact.sidecars import missing_tokenizer
from exaone_export.artifact.vocabulary import describe_beyond
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.errors import CalibrationError, CheckpointError, ConfigError
from exaone_export.graphs.pipelines import rewrite
from exaone_export.graphs.verify import LayerReading, verify
from exaone_export.planning.setting import Setting, choose_layout
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.precision import Recipe
from exaone_export.targets.target import Target

from .calibrate.options import WEIGHTS_STAY
from .calibrate.scales.file import ScalesFile
from .calibrate.smoothing import EXPLICIT
from .checkpoint.checkpoint import Checkpoint
from .plan.preflight import export_shortfall, refuse
from .plan.recipe import choose_recipe, choose_target
from .quantize.quantized_weights import quantized_readers
from .reference.range_check import refuse_float16_overflow, refuse_float16_ranges
from .reference.tracing import DTYPES, bind_weights, trace
from .reference.weights import WeightReader, weight_readers
from .write.graph_file import DATA_FILE, MODEL_FILE, write_graph, write_weights
from .write.journal import Journal

Progress = Callable[[str, int, int], None]
"""Called with the step's name, what is done of it and what there is to do."""

Notice = Callable[[str], None]
"""Called with a sentence."""


@dataclass(frozen=True)
class ExportPlan:
    """All that an export decides before it reads a weight.

    Attributes:
        checkpoint: The opened checkpoint.
        target: Where the graph will run.
        recipe: Of weights, activations and cache.
        layout: The caches.
        scales: The ranges of the products' inputs, where the recipe rounds them.
        prefill_chunk: Tokens of the longest step that was asked for; None for the target's own.
    """

    checkpoint: Checkpoint
    target: Target
    recipe: Recipe
    layout: CacheLayout
    scales: ScalesFile | None = None
    prefill_chunk: int | None = None

    @property
    def setting(self) -> Setting:
        """What memory and disk are planned for."""
        return Setting(
            self.checkpoint.spec, self.target, self.recipe, self.layout.max_length, prefill_chunk=self.prefill_chunk
        )


def plan_export(
    model: str | Path,
    *,
    target: str = "ort-cpu",
    precision: str | None = None,
    compute_type: str | None = None,
    cache_precision: str | None = None,
    calibration: str | Path | None = None,
    max_length: int | None = None,
    prefill_chunk: int | None = None,
    revision: str | None = None,
) -> ExportPlan:
    """Open the checkpoint and decide the caches; nothing is written.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        target: A name of `exaone_export.targets.target.TARGETS`.
        precision: One of the target's; its first by default.
        compute_type: Of what a quantized precision leaves in floating point; the target's first by default.
        cache_precision: Of keys and values; the compute type by default.
        calibration: A scales file, for a precision that rounds activations.
        max_length: The most tokens, prompt and answer together; the model's own limit by default.
        prefill_chunk: Tokens of the longest step, where the target's caches have room for just so many.
        revision: Of a hub id.

    Raises:
        ExaoneExportError: The checkpoint, the target or the length cannot be used.
    """
    place = choose_target(model, target, precision, cache_precision)
    checkpoint = Checkpoint.open(model, revision)
    recipe = choose_recipe(checkpoint.spec, checkpoint.quantization, place, precision, compute_type)
    scales = _scales(recipe, checkpoint, calibration, cache_precision)
    if scales is not None:
        recipe = _calibrated(recipe, scales, cache_precision)
    layout = choose_layout(checkpoint.spec, place, max_length, prefill_chunk)
    return ExportPlan(checkpoint, place, recipe, layout, scales, prefill_chunk)


def _scales(
    recipe: Recipe, checkpoint: Checkpoint, calibration: str | Path | None, cache_precision: str | None
) -> ScalesFile | None:
    given = checkpoint.quantization
    name, static = recipe.precision.name, recipe.precision.activations is not None and not recipe.kernels
    if static and given is not None and given.activations == "static":
        static = False  # the checkpoint has the ranges
    if calibration is None:
        if static or cache_precision is not None:
            what = f"precision {name} rounds activations" if static else f"a cache in {cache_precision} rounds them"
            cache = f" --cache {cache_precision}" if cache_precision is not None else ""
            raise CalibrationError(
                f"{what}, and their ranges are not known; run: exaone-export calibrate MODEL scales.safetensors "
                f"--data FILE.jsonl{cache}, and pass --calibration scales.safetensors."
            )
        return None
    if recipe.precision.weights is None and cache_precision is None:
        raise ConfigError(f"precision {name} quantizes nothing; leave --calibration out.")
    scales = ScalesFile.read(calibration, checkpoint.spec)
    scales.check_recipe(checkpoint, recipe, cache_precision)
    if given is not None and (scales.weights is not None or scales.smoothed or scales.kept):
        raise CalibrationError(WEIGHTS_STAY)
    if static and recipe.compute_type == "float16":
        refuse_float16_ranges(scales)
    return scales


def _calibrated(recipe: Recipe, scales: ScalesFile, cache_precision: str | None) -> Recipe:
    """The recipe with what calibration has decided; of layers and their inputs, only where products are quantized."""
    recipe = replace(recipe, cache=cache_precision)
    if recipe.precision.weights is None:
        return recipe
    return replace(
        recipe,
        kept=dict(scales.kept),
        smoothed=tuple(part for part in scales.smoothed if part in EXPLICIT),
    )


def draft(plan: ExportPlan) -> tuple[ir.Model, Manifest]:
    """Trace, rewrite and verify; the graph's weights are read when they are written.

    Returns:
        The finished graph, and the manifest of an artifact that holds it, which lists no files yet.

    Raises:
        GraphContradictionError: The finished graph is not the checkpoint's architecture.
    """
    spec, recipe = plan.checkpoint.spec, plan.recipe
    traced = trace(spec, plan.layout, DTYPES[recipe.compute_type])
    graph = rewrite(traced, plan.target, plan.layout, spec, recipe)
    readings = verify(graph, spec, plan.layout, recipe, provider=plan.target.provider)
    bind_weights(graph, _readers(plan))
    return graph, _manifest(plan, graph, readings)


def _readers(plan: ExportPlan) -> dict[str, WeightReader]:
    quantized = quantized_readers(plan.checkpoint, plan.recipe, plan.scales)
    return weight_readers(plan.checkpoint, plan.layout) | quantized


class PlanOptions(TypedDict, total=False):
    """The keywords of `plan_export`."""

    target: str
    precision: str | None
    compute_type: str | None
    cache_precision: str | None
    calibration: str | Path | None
    max_length: int | None
    prefill_chunk: int | None
    revision: str | None


def export(
    model: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    plan_check: bool = True,
    progress: Progress | None = None,
    notice: Notice | None = None,
    signing_key: Any = None,
    **options: Unpack[PlanOptions],
) -> Manifest:
    """Export a checkpoint to an artifact folder.

    A run that was killed or interrupted leaves a folder beside ``out``; the next one with the same checkpoint, options
    and versions goes on from it, and gives the bytes that it would have given.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        out: The artifact folder to make; it appears whole or not at all.
        overwrite: Whether an artifact that stands at ``out`` may be replaced.
        plan_check: Whether an export that this machine's disk or memory does not hold is refused before it begins.
        progress: Told how far the work is.
        notice: Told in a sentence that the work of an earlier run is taken up, that the config contradicts itself,
            that a tokenizer is there and no tokenizer.json, or that this has tokens that the model has not.
        signing_key: Of `exaone_export.artifact.signature.read_private_key`, where the artifact is to be signed.
        options: Those of `plan_export`.

    Returns:
        The manifest that was written.

    Raises:
        CapacityError: The disk or the memory is too small.
        ExaoneExportError: The checkpoint, the target, the destination or the finished graph is refused.
    """
    ArtifactWriter(out, overwrite).check()  # before a model is downloaded
    plan = plan_export(model, **options)
    if notice is not None:
        for sentence in plan.checkpoint.overruled:
            notice(f"config.json: {sentence}.")
    if plan_check:
        refuse(shortfall(plan, out))
    missing = missing_tokenizer(plan.checkpoint.folder)
    if missing is not None and notice is not None and plan.checkpoint.has_tokenizer_files:
        notice(f"{missing}.")
    beyond = describe_beyond(plan.checkpoint.folder, plan.checkpoint.spec.vocab_size)
    if beyond is not None and notice is not None:
        notice(f"{beyond}; a prompt with one of them will be refused")
    return write_artifact(plan, out, overwrite=overwrite, progress=progress, notice=notice, signing_key=signing_key)


def shortfall(plan: ExportPlan, out: str | Path) -> str | None:
    """Why this machine's disk or memory would not hold an export to ``out``; None where it would."""
    return export_shortfall(plan.setting, out, fixed_precision=plan.checkpoint.quantization is not None)


def write_artifact(
    plan: ExportPlan,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    notice: Notice | None = None,
    signing_key: Any = None,
) -> Manifest:
    """Carry out a plan; see `export`."""
    report = progress or _silent
    with (
        ArtifactWriter(out, overwrite=overwrite, key=_key(plan)) as staging,
        Journal(staging.path, MODEL_FILE, DATA_FILE) as journal,
    ):
        _copy_small_files(plan.checkpoint, staging.path)  # first: these may change in the hours of a large model
        if notice is not None and (found := _found(journal, staging.path)) is not None:
            notice(found)
        if journal.manifest is None:
            _finish_graph(plan, staging.path, journal, report)
        write_weights(staging.path, journal, _readers(plan), report)
        report("commit", 0, 1)
        plan.checkpoint.check_weights_unchanged()
        if plan.scales is not None:
            plan.scales.check_unchanged()
        assert journal.manifest is not None
        return staging.commit(journal.manifest, signing_key)


def _found(journal: Journal, folder: Path) -> str | None:
    """A phrase on what an earlier run has left; None where that is nothing."""
    if journal.discarded:
        return f"the work of an earlier run in {folder} is damaged and is discarded"
    if journal.manifest is None:
        return None
    again = f"; {journal.damaged} more are damaged and are written again" if journal.damaged else ""
    return f"going on after {len(journal.written)} written tensors, kept in {folder}{again}"


def _copy_small_files(checkpoint: Checkpoint, folder: Path) -> None:
    for sidecar in checkpoint.sidecars:
        copy = folder / sidecar.name
        copy.write_bytes(checkpoint.read_sidecar(sidecar.name))
        sidecars.check_content(copy, CheckpointError)
    # Whoever reads the artifact's config reads what was exported, in a spelling that transformers 5 knows.
    config = json.dumps(dict(checkpoint.config), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")


def _finish_graph(plan: ExportPlan, folder: Path, journal: Journal, report: Progress) -> None:
    if plan.recipe.compute_type == "float16":
        layers = plan.checkpoint.spec.num_hidden_layers
        report("check range", 0, layers)
        refuse_float16_overflow(plan.checkpoint, report=lambda done: report("check range", done, layers))
    report("trace", 0, 1)
    graph, manifest = draft(plan)
    write_graph(graph, folder)
    journal.begin(manifest)


def _key(plan: ExportPlan) -> str:
    """Hash of all that decides the artifact's bytes, and of when the weights were last changed."""
    checkpoint = plan.checkpoint
    parts = {
        "package": exaone_export.__version__,
        "target": plan.target.name,
        "source": _source(checkpoint),
        "changed": checkpoint.changed,
        "recipe": _recipe(plan),
        "cache": plan.layout.to_dict(),
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _manifest(plan: ExportPlan, graph: ir.Model, readings: list[LayerReading]) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        exaone_export_version=exaone_export.__version__,
        target=plan.target.name,
        precision=plan.recipe.precision.name,
        model=plan.checkpoint.spec.to_config(),
        source=_source(plan.checkpoint),
        recipe=_recipe(plan),
        layers=[reading.to_dict() for reading in readings],
        cache=plan.layout.to_dict(),
        inputs=[str(value.name) for value in graph.graph.inputs],
        outputs=[str(value.name) for value in graph.graph.outputs],
        tool_versions=_versions(),
        files={},
        parity=None,
    )


def _source(checkpoint: Checkpoint) -> dict[str, str | None]:
    return {"name": checkpoint.name, "revision": checkpoint.revision, "fingerprint": checkpoint.fingerprint()}


def _recipe(plan: ExportPlan) -> dict[str, Any]:
    calibration = plan.scales.to_dict() if plan.scales is not None else None
    return {**plan.recipe.to_dict(), "max_length": plan.layout.max_length, "calibration": calibration}


def _versions() -> dict[str, str]:
    tools = ("torch", "onnx", "onnx-ir", "onnxscript", "transformers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in tools}}


def _silent(_step: str, _done: int, _total: int) -> None:
    """Report nothing."""
