"""All that an export decides before it reads a weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exaone_export.artifact.sidecars import missing_tokenizer
from exaone_export.artifact.vocabulary import describe_beyond
from exaone_export.planning.deployment import Deployment
from exaone_export.planning.prefill import PREFILL_THRESHOLD
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import Target

from ..calibrate.scales.file import ScalesFile
from ..checkpoint.checkpoint import Checkpoint
from .calibration import calibrated, read_scales
from .options import ExportOptions
from .preflight import export_shortfall
from .recipe import choose_prefill, choose_recipe, choose_target

__all__ = ["ExportPlan", "plan_export"]


@dataclass(frozen=True)
class ExportPlan:
    """What is exported, and how.

    Attributes:
        checkpoint: The opened checkpoint.
        deployment: Architecture, target, recipe and length, which memory and disk are planned for.
        layout: The caches.
        scales: What calibration found; None where the recipe needs nothing of it.
        inline: Whether the body of the graph's function takes the place of its calls.
        prefill_threshold: Rows times tokens of a step from which on the graph for prompts runs it, where there is one.
    """

    checkpoint: Checkpoint
    deployment: Deployment
    layout: CacheLayout
    scales: ScalesFile | None = None
    inline: bool = False
    prefill_threshold: int = PREFILL_THRESHOLD

    @property
    def target(self) -> Target:
        """Where the graph will run."""
        return self.deployment.target

    @property
    def recipe(self) -> Recipe:
        """How weights, activations and cache are stored."""
        return self.deployment.recipe

    @property
    def prefill(self) -> Recipe | None:
        """The same of a second graph, for prompts; None where there is one graph."""
        return self.deployment.prefill

    def remarks(self) -> Iterator[str]:
        """What a user should know of the checkpoint before it is exported, a sentence each."""
        checkpoint = self.checkpoint
        for sentence in checkpoint.overruled:
            yield f"config.json: {sentence}."
        for sentence in checkpoint.left_out:
            yield f"{checkpoint.name}: {sentence}."
        missing = missing_tokenizer(checkpoint.folder)
        if missing is not None and checkpoint.has_tokenizer_files:
            yield f"{missing}."
        beyond = describe_beyond(checkpoint.folder, checkpoint.spec.vocab_size)
        if beyond is not None:
            yield f"{beyond}; a prompt with one of them will be refused."

    def shortfall(self, out: str | Path) -> str | None:
        """Why this machine's disk or memory is too small for an export to ``out``; None where it is not."""
        return export_shortfall(self.deployment, out, fixed_precision=self.checkpoint.quantization is not None)


def plan_export(model: str | Path, options: ExportOptions | None = None, **fields: Any) -> ExportPlan:
    """Open the checkpoint and decide target, recipe and caches; nothing is written.

    Args:
        model: A folder in Hugging Face form, or a hub id.
        options: The options of the export.
        fields: Fields of `ExportOptions`, which replace those of ``options``.

    Raises:
        ExaoneExportError: The checkpoint, the target or the length cannot be used.
    """
    options = replace(options or ExportOptions(), **fields)
    target = choose_target(model, options)
    checkpoint = Checkpoint.open(model, options.revision, head=options.head, hidden_states=options.hidden_states)
    recipe = choose_recipe(checkpoint.spec, checkpoint.quantization, target, options)
    scales = read_scales(recipe, checkpoint, options)
    if scales is not None:
        recipe = calibrated(recipe, checkpoint.spec, scales, options.cache_precision)
    length = checkpoint.spec.max_position_embeddings if options.max_length is None else options.max_length
    prefill = choose_prefill(checkpoint.spec, checkpoint.quantization, target, recipe, options)
    deployment = Deployment(checkpoint.spec, target, recipe, length, options.prefill_chunk, prefill=prefill)
    threshold = options.prefill_threshold or PREFILL_THRESHOLD
    return ExportPlan(checkpoint, deployment, deployment.layout, scales, options.inline, threshold)
