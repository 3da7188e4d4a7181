"""What an artifact says of itself, and the key that an interrupted export's work is found by."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

import exaone_export
from exaone_export.artifact.manifest import SCHEMA_VERSION, Manifest
from exaone_export.artifact.prefill import PrefillInfo
from exaone_export.graphs.verify import LayerReading

from ..checkpoint.checkpoint import Checkpoint
from ..plan.export_plan import ExportPlan

__all__ = ["key_of", "manifest_of"]


def manifest_of(
    plan: ExportPlan, graph: ir.Model, readings: Sequence[LayerReading], of_prompts: Sequence[LayerReading] = ()
) -> Manifest:
    """The manifest of an artifact that holds a verified graph, and a second one for prompts; it lists no files yet."""
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
        prefill=_prefill(plan, of_prompts),
    )


def key_of(plan: ExportPlan) -> str:
    """Hash of all that decides the artifact's bytes, and of when the weights were last changed."""
    checkpoint = plan.checkpoint
    parts = {
        "package": exaone_export.__version__,
        "target": plan.target.name,
        "source": _source(checkpoint),
        "changed": checkpoint.changed,
        "recipe": _recipe(plan),
        "cache": plan.layout.to_dict(),
        "head": [checkpoint.spec.architecture, *checkpoint.spec.output_shapes],
        "versions": _versions(),
    }
    if (prefill := _prefill(plan, ())) is not None:
        parts["prefill"] = prefill
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _source(checkpoint: Checkpoint) -> dict[str, str | None]:
    return {"name": checkpoint.name, "revision": checkpoint.revision, "fingerprint": checkpoint.fingerprint()}


def _recipe(plan: ExportPlan) -> dict[str, Any]:
    calibration = plan.scales.to_dict() if plan.scales is not None else None
    recipe = {**plan.recipe.to_dict(), "max_length": plan.layout.max_length, "calibration": calibration}
    return recipe | {"inline": True} if plan.inline else recipe


def _prefill(plan: ExportPlan, readings: Sequence[LayerReading]) -> dict[str, Any] | None:
    if plan.prefill is None:
        return None
    layers = [reading.to_dict() for reading in readings]
    name, recipe = plan.prefill.precision.name, {**plan.prefill.to_dict(), "max_length": plan.layout.max_length}
    return PrefillInfo(name, recipe, layers, plan.prefill_threshold).to_dict()


def _versions() -> dict[str, str]:
    tools = ("torch", "onnx", "onnx-ir", "onnxscript", "transformers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in tools}}
