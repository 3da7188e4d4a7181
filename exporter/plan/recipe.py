"""Target and recipe from what a user asks for and what a checkpoint's config says, before a weight is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exaone_export.model.spec import ModelSpec
from exaone_export.targets.precision import PRECISIONS, Recipe, canonical
from exaone_export.targets.target import Target, get_target

if TYPE_CHECKING:
    from ..checkpoint.prequantized.form import Quantization

__all__ = ["choose_recipe", "choose_target"]


def choose_target(model: str | Path, target: str, precision: str | None, cache_precision: str | None) -> Target:
    """The target, once it is known that it runs what is asked for.

    Of a folder, which is soon read, `choose_recipe` checks the precision: what can be chosen in its place depends on
    how the checkpoint is stored.

    Raises:
        TargetError: It is unknown, or does not.
    """
    place = get_target(target)
    if precision is not None and (canonical(precision) not in PRECISIONS or not Path(model).expanduser().is_dir()):
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
        precision: One of the target's, or an alias such as fp16; by default its first, or the checkpoint's own. Of a
            quantized checkpoint, its own, or one in floating point for the weights that its codes stand for.
        compute_type: Of what a quantized precision leaves in floating point; the target's first by default.

    Raises:
        ConfigError: The checkpoint or the model's sizes have no such form.
        TargetError: The target does not run it.
    """
    precision, compute_type = (None if name is None else canonical(name) for name in (precision, compute_type))
    if quantization is None:
        chosen = place.check_precision(precision or place.precisions[0])
        return Recipe.plan(spec, chosen, place.check_compute_type(chosen, compute_type), kernels=place.kernels)
    # Loads torch, which a plan of a checkpoint in floating point does without.
    from ..checkpoint.prequantized.recipe import published_recipe

    return published_recipe(spec, quantization, place, precision, compute_type)
