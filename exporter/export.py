"""Checkpoint to artifact: plan, check, trace, lower, verify, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from exaone_export.artifact.manifest import Manifest
from exaone_export.artifact.prefill import PREFILL_NAME
from exaone_export.artifact.signature import as_private_key
from exaone_export.artifact.writer import ArtifactWriter
from exaone_export.graphs.passes.divide_head import DivideHead
from exaone_export.graphs.pipelines import lower
from exaone_export.graphs.verify import verify
from exaone_export.graphs.wanted import wanted
from exaone_export.progress import Notice, Progress, Step
from exaone_export.targets.recipe import Recipe

from .plan.export_plan import ExportPlan, plan_export
from .plan.options import ExportOptions
from .plan.preflight import refuse
from .quantize.quantized_weights import quantized_readers
from .reference.range_check import refuse_float16_overflow
from .reference.tracing import DTYPES, trace
from .reference.weights import weight_readers
from .write.binding import bind_weights, share_weights
from .write.graph_file import DATA_FILE, MODEL_FILE, write_model
from .write.journal import Journal
from .write.manifest import key_of, manifest_of
from .write.small_files import write_small_files

__all__ = ["ExportOptions", "ExportPlan", "draft", "export", "plan_export", "write_artifact"]


def export(
    model: str | Path,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    plan_check: bool = True,
    progress: Progress | None = None,
    notice: Notice | None = None,
    signing_key: Any = None,
    **fields: Any,
) -> Manifest:
    """Export a checkpoint to an artifact folder.

    A run that was killed or interrupted leaves a folder beside ``out``; the next one with the same checkpoint, options
    and versions continues from it, and gives the bytes that it would have given.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        out: The artifact folder to make; it appears whole or not at all.
        options: The options of the export.
        overwrite: Whether an artifact at ``out`` may be replaced.
        plan_check: Whether an export that this machine's disk or memory is too small for is refused before it begins.
        progress: Told how far the work is.
        notice: Told that an earlier run's work is continued, and what the checkpoint's config or tokenizer contradicts.
        signing_key: A file with an Ed25519 private key, or what
            `exaone_export.artifact.signature.read_private_key` reads of it, to sign the artifact.
        fields: Fields of `ExportOptions`, such as ``target`` and ``precision``, which replace those of ``options``.

    Returns:
        The manifest that was written.

    Raises:
        CapacityError: The disk or the memory is too small.
        ExaoneExportError: The checkpoint, the target, the destination or the finished graph is refused.
    """
    ArtifactWriter(out, overwrite).check()  # before a model is downloaded
    signing_key = as_private_key(signing_key)
    plan = plan_export(model, options, **fields)
    if notice is not None:
        for remark in plan.remarks():
            notice(remark)
    if plan_check:
        refuse(plan.shortfall(out))
    return write_artifact(plan, out, overwrite=overwrite, progress=progress, notice=notice, signing_key=signing_key)


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
    signing_key = as_private_key(signing_key)
    with (
        ArtifactWriter(out, overwrite=overwrite, key=key_of(plan)) as staging,
        Journal(staging.path, MODEL_FILE, DATA_FILE, () if plan.prefill is None else (PREFILL_NAME,)) as journal,
    ):
        write_small_files(plan, staging.path)  # first: these may change in the hours of a large model
        if notice is not None and (found := journal.found()) is not None:
            notice(found)
        if plan.recipe.compute_type == "float16" and journal.manifest is None:
            refuse_float16_overflow(plan.checkpoint, progress=progress)
        Step(progress, "trace", 1)(0)
        graphs, manifest = draft(plan)
        write_model(graphs, manifest, staging.path, journal, progress)
        Step(progress, "commit", 1)(0)
        plan.checkpoint.check_weights_unchanged()
        if plan.scales is not None:
            plan.scales.check_unchanged()
        return staging.commit(manifest, signing_key)


def draft(plan: ExportPlan) -> tuple[dict[str, ir.Model], Manifest]:
    """Trace, lower and verify; the graphs' weights are read when they are written.

    Returns:
        The finished graphs by their files' names, and the manifest of an artifact that holds them, which lists no files
        yet.

    Raises:
        GraphContradictionError: The finished graph is not the checkpoint's architecture.
    """
    recipes = {MODEL_FILE: plan.recipe} | ({} if plan.prefill is None else {PREFILL_NAME: plan.prefill})
    graphs = {name: _draft(plan, recipe) for name, recipe in recipes.items()}
    if plan.prefill is not None:
        share_weights(graphs[PREFILL_NAME], graphs[MODEL_FILE])
    if plan.target.device == "cpu":  # a GPU's kernels take weights as they lie
        for graph in graphs.values():
            DivideHead()(graph)
    readings = [
        verify(graphs[name], plan.checkpoint.spec, plan.layout, recipe, provider=plan.target.provider)
        for name, recipe in recipes.items()
    ]
    return graphs, manifest_of(plan, graphs[MODEL_FILE], *readings)


def _draft(plan: ExportPlan, recipe: Recipe) -> ir.Model:
    """The lowered graph, whose weights are bound and not read."""
    checkpoint, spec = plan.checkpoint, plan.checkpoint.spec
    traced = trace(spec, plan.layout, DTYPES[recipe.compute_type])
    graph = lower(traced, plan.target, plan.layout, spec, recipe, inline=plan.inline)
    added = quantized_readers(checkpoint, recipe, plan.scales, wanted(graph))
    bind_weights(graph, weight_readers(checkpoint, plan.layout) | added)
    return graph
