"""Target and recipe from what a user asks for and what a checkpoint's config says, before a weight is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exaone_export.precision import Recipe
from exaone_export.spec import ModelSpec
from exaone_export.targets import Target, get_target

if TYPE_CHECKING:
    from exaone_export.exporter.prequantized.form import Quantization

__all__ = ["choose_recipe", "choose_target"]


def choose_target(target: str, precision: str | None, cache_precision: str | None) -> Target:
    """The target, once it is known that it runs what is asked for.

    Raises:
        TargetError: It is unknown, or does not.
    """
    place = get_target(target)
    if precision is not None:
        place.check_precision(precision)
    place.check_cache_precision(cache_precision)
    return place


def choose_recipe(
    spec: ModelSpec, quantization: Quantization | None, place: Target, precision: str | None, compute_type: str | None
) -> Recipe:
    """The recipe of a model on a target; what calibration decides is not in it yet.

    Args:
        spec: The architecture.
        quantization: How the checkpoint's projections are stored already; None where they are not quantized.
        place: Where the graph will run.
        precision: One of the target's, or an alias such as fp16; by default its first, or the checkpoint's own.
        compute_type: Of what a quantized precision leaves in floating point; the target's first by default.

    Raises:
        ConfigError: The checkpoint or the model's sizes have no such form.
        TargetError: The target does not run it.
    """
    if quantization is None:
        chosen = place.check_precision(precision or place.precisions[0])
        return Recipe.plan(spec, chosen, place.check_compute_type(chosen, compute_type), kernels=place.kernels)
    # Loads torch, which a plan of a checkpoint in floating point does without.
    from exaone_export.exporter.prequantized.recipe import own_precision, own_recipe

    own = own_precision(quantization, precision, place)
    recipe = Recipe.plan(spec, own, place.check_compute_type(own, compute_type), kernels=place.kernels)
    return own_recipe(spec, quantization, recipe)
