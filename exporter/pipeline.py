"""Checkpoint to artifact, in five steps: read, trace, rewrite, verify, write."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import onnx_ir as ir

import exaone_export
from exaone_export.artifact import ArtifactWriter
from exaone_export.cache_layout import CacheLayout
from exaone_export.errors import CalibrationError, ConfigError
from exaone_export.exporter.calibration.smoothing import EXPLICIT
from exaone_export.exporter.checkpoint import Checkpoint
from exaone_export.exporter.preflight import export_shortfall, refuse
from exaone_export.exporter.quantized_weights import quantized_readers
from exaone_export.exporter.range_check import refuse_float16_overflow, refuse_float16_ranges
from exaone_export.exporter.recipe_choice import choose_recipe, choose_target
from exaone_export.exporter.scales_file import ScalesFile
from exaone_export.exporter.tracing import DTYPES, bind_weights, trace
from exaone_export.exporter.weights import weight_readers
from exaone_export.graphs.pipelines import rewrite
from exaone_export.graphs.verify import LayerReading, verify
from exaone_export.manifest import SCHEMA_VERSION, Manifest
from exaone_export.precision import Recipe
from exaone_export.setting import Setting, choose_layout
from exaone_export.targets import Target

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
_MIN_EXTERNAL_BYTES = 1024
# onnx-ir 1.0 knows none of these, and writes one tensor after the other. What is in flight is read, cast and written;
# one larger tensor passes on its own.
_WRITING: dict[str, Any] = {"max_workers": 2, "max_in_flight_bytes": 256 * 2**20, "alignment": 4096}

Progress = Callable[[str, int, int], None]
"""Called with the step's name, what is done of it and what there is to do."""


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
        target: A name of `exaone_export.targets.TARGETS`.
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
    place = choose_target(target, precision, cache_precision)
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
    if given is not None and (scales.weights is not None or scales.smoothed):
        raise CalibrationError(
            "the scales change weights, and those of this checkpoint are quantized already; calibrate it with "
            "--cache alone, or with no other option than --data."
        )
    if static and recipe.compute_type == "float16":
        refuse_float16_ranges(scales)
    return scales


def _calibrated(recipe: Recipe, scales: ScalesFile, cache_precision: str | None) -> Recipe:
    """The recipe with what calibration has decided."""
    return replace(
        recipe,
        kept=dict(scales.kept),
        smoothed=tuple(part for part in scales.smoothed if part in EXPLICIT),
        cache=cache_precision,
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
    readings = verify(graph, spec, plan.layout, recipe)
    quantized = quantized_readers(plan.checkpoint, recipe, plan.scales)
    bind_weights(graph, weight_readers(plan.checkpoint, plan.layout) | quantized)
    return graph, _manifest(plan, graph, readings)


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
    signing_key: Any = None,
    **options: Unpack[PlanOptions],
) -> Manifest:
    """Export a checkpoint to an artifact folder.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        out: The artifact folder to make; it appears whole or not at all.
        overwrite: Whether an artifact that stands at ``out`` may be replaced.
        plan_check: Whether an export that this machine's disk or memory does not hold is refused before it begins.
        progress: Told how far the work is.
        signing_key: Of `exaone_export.signature.read_private_key`, where the artifact is to be signed.
        options: Those of `plan_export`.

    Returns:
        The manifest that was written.

    Raises:
        CapacityError: The disk or the memory is too small.
        ExaoneExportError: The checkpoint, the target, the destination or the finished graph is refused.
    """
    plan = plan_export(model, **options)
    if plan_check:
        refuse(shortfall(plan, out))
    return write_artifact(plan, out, overwrite=overwrite, progress=progress, signing_key=signing_key)


def shortfall(plan: ExportPlan, out: str | Path) -> str | None:
    """Why this machine's disk or memory would not hold an export to ``out``; None where it would."""
    return export_shortfall(plan.setting, out, fixed_precision=plan.checkpoint.quantization is not None)


def write_artifact(
    plan: ExportPlan,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    signing_key: Any = None,
) -> Manifest:
    """Carry out a plan; see `export`."""
    report = progress or _silent
    with ArtifactWriter(out, overwrite=overwrite) as staging:
        if plan.recipe.compute_type == "float16":
            report("check range", 0, 1)
            refuse_float16_overflow(plan.checkpoint)
        report("trace", 0, 1)
        graph, manifest = draft(plan)
        _write_graph(graph, staging.path, report)
        report("commit", 0, 1)
        for sidecar in plan.checkpoint.sidecars:
            shutil.copyfile(sidecar, staging.path / sidecar.name)
        if plan.checkpoint.quantization is not None:
            _forget_quantization(staging.path / "config.json")
        return staging.commit(manifest, signing_key)


def _forget_quantization(path: Path) -> None:
    """What a config says of a checkpoint's quantized tensors is not true of the artifact, and programs act on it."""
    config = json.loads(path.read_bytes())
    del config["quantization_config"]
    path.write_text(json.dumps(config, indent=2) + "\n")


def _write_graph(graph: ir.Model, folder: Path, report: Progress) -> None:
    def written(_: ir.TensorProtocol, info: Any) -> None:
        report("write", info.index + 1, info.total)

    ir.save(
        graph,
        folder / MODEL_FILE,
        external_data=DATA_FILE,
        size_threshold_bytes=_MIN_EXTERNAL_BYTES,
        callback=written,
        **{name: value for name, value in _WRITING.items() if name in inspect.signature(ir.save).parameters},
    )


def _manifest(plan: ExportPlan, graph: ir.Model, readings: list[LayerReading]) -> Manifest:
    checkpoint = plan.checkpoint
    return Manifest(
        schema_version=SCHEMA_VERSION,
        exaone_export_version=exaone_export.__version__,
        target=plan.target.name,
        precision=plan.recipe.precision.name,
        model=checkpoint.spec.to_config(),
        source={"name": checkpoint.name, "revision": checkpoint.revision, "fingerprint": checkpoint.fingerprint()},
        recipe={
            **plan.recipe.to_dict(),
            "max_length": plan.layout.max_length,
            "calibration": plan.scales.to_dict() if plan.scales is not None else None,
        },
        layers=[reading.to_dict() for reading in readings],
        cache=plan.layout.to_dict(),
        inputs=[str(value.name) for value in graph.graph.inputs],
        outputs=[str(value.name) for value in graph.graph.outputs],
        tool_versions={
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("torch", "onnx", "onnx-ir", "onnxscript", "transformers")
            },
        },
        files={},
        parity=None,
    )


def _silent(_step: str, _done: int, _total: int) -> None:
    """Report nothing."""
