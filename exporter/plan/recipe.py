"""Target and recipe from the options and the checkpoint's config, before a weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exaone_export.errors import ConfigError
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.precision import PRECISIONS, canonical
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import Target, get_target

from .options import ExportOptions

if TYPE_CHECKING:
    from ..checkpoint.prequantized.form import Quantization

__all__ = ["choose_prefill", "choose_recipe", "choose_target"]


def choose_target(model: str | Path, options: ExportOptions) -> Target:
    """The target, checked to run what the options request.

    The precision of a checkpoint in a folder, which is soon read, is left to `choose_recipe`: which others can be
    chosen depends on how the checkpoint is stored.

    Raises:
        TargetError: The target is unknown, or does not run it.
    """
    target, precision = get_target(options.target), options.precision
    if options.prefill_threshold is not None and options.prefill_precision is None:
        raise ConfigError(
            "--prefill-threshold chooses between two graphs; pass --prefill-precision int8 too, or leave it out."
        )
    if (
        options.prefill_precision is not None
        and options.prefill_threshold is not None
        and options.prefill_threshold < 2
    ):
        raise ConfigError(f"prefill threshold is {options.prefill_threshold}; it must be at least 2 tokens.")
    if precision is not None and (canonical(precision) not in PRECISIONS or not Path(model).expanduser().is_dir()):
        target.check_precision(precision)
    target.check_cache_precision(options.cache_precision)
    if options.inline:
        target.check_inline()
    return target


def choose_recipe(spec: ModelSpec, quantization: Quantization | None, target: Target, options: ExportOptions) -> Recipe:
    """The recipe of a model on a target; what calibration decides is not in it yet.

    Args:
        spec: The architecture.
        quantization: How the checkpoint's projections are stored; None where they are not quantized.
        target: Where the graph will run.
        options: The precision, by default the target's first or a quantized checkpoint's own, and the compute type, by
            default the target's first. A quantized checkpoint has its own precision, or one in floating point for the
            weights that its codes stand for.

    Raises:
        ConfigError: The precision needs blocks that the checkpoint or the model's sizes do not have.
        TargetError: The target does not run it.
    """
    precision, compute_type = (
        None if name is None else canonical(name) for name in (options.precision, options.compute_type)
    )
    if quantization is None:
        chosen = target.check_precision(precision or target.precisions[0])
        if spec.sparse_mlp is not None:
            target.check_sparse(chosen)
        return Recipe.plan(spec, chosen, target.check_compute_type(chosen, compute_type), kernels=target.kernels)
    if spec.sparse_mlp is not None:
        raise ConfigError(
            f"the checkpoint is quantized, and {spec.family.name} is exported from floating point alone; give that "
            f"checkpoint, with --precision int4 or int8 and --target ort-cpu for smaller weights."
        )
    # Loads torch, which a plan of a checkpoint in floating point does without.
    from ..checkpoint.prequantized.recipe import published_recipe

    return published_recipe(spec, quantization, target, precision, compute_type)


def choose_prefill(
    spec: ModelSpec, quantization: Quantization | None, target: Target, recipe: Recipe, options: ExportOptions
) -> Recipe | None:
    """The recipe of a graph for prompts beside that of ``recipe``, in which calibration has decided; None for none.

    Raises:
        ConfigError: The checkpoint is quantized, or its head generates no tokens, or it has sparse layers.
        TargetError: The target or the precision has no such graph.
    """
    asked = options.prefill_precision
    if asked is None:
        return None
    target.check_prefill_precision(recipe.precision.name, asked)
    if quantization is not None:
        raise ConfigError(
            f"a graph for prompts rounds the weights anew, and those of this checkpoint are rounded to "
            f"{recipe.precision.name} already; leave --prefill-precision out."
        )
    if not spec.head.is_causal_lm:
        raise ConfigError(
            f"a graph for prompts stands beside one for answers, and {spec.architecture} gives none; leave "
            f"--prefill-precision out."
        )
    if spec.sparse_mlp is not None:
        raise ConfigError(
            f"a graph for prompts would hold every expert a second time, and {spec.family.name} has "
            f"{spec.sparse_mlp.num_experts} of them in a layer; leave --prefill-precision out."
        )
    return recipe.for_prompts(asked)
