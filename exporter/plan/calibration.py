"""What a calibration decides of an export: the scales file is read and checked, and its choices enter the recipe."""

from __future__ import annotations

from dataclasses import replace

from exaone_export.errors import CalibrationError, ConfigError
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.recipe import Recipe

from ..calibrate.options import WEIGHTS_STAY
from ..calibrate.scales.file import ScalesFile
from ..calibrate.smoothing import explicit
from ..checkpoint.checkpoint import Checkpoint
from ..reference.range_check import refuse_float16_ranges
from .options import ExportOptions

__all__ = ["calibrated", "read_scales"]


def read_scales(recipe: Recipe, checkpoint: Checkpoint, options: ExportOptions) -> ScalesFile | None:
    """The scales file of an export; None where the recipe needs none.

    Raises:
        CalibrationError: It is missing, damaged, or made for another model, precision or cache.
        ConfigError: The recipe has no use for it, or its ranges do not fit float16.
    """
    given, cache_precision = checkpoint.quantization, options.cache_precision
    name, static = recipe.precision.name, recipe.precision.activations is not None and not recipe.kernels
    if static and given is not None and given.activations == "static":
        static = False  # the checkpoint has the ranges
    if options.calibration is None:
        if static or cache_precision is not None:
            rounds = f"an {cache_precision} cache rounds keys and values"
            what = f"precision {name} rounds activations" if static else rounds
            cache = f" --cache {cache_precision}" if cache_precision is not None else ""
            raise CalibrationError(
                f"{what}, and their ranges are not known; run: exaone-export calibrate MODEL scales.safetensors "
                f"--data FILE.jsonl{cache}, and pass --calibration scales.safetensors."
            )
        return None
    if recipe.precision.weights is None and cache_precision is None:
        raise ConfigError(f"precision {name} quantizes nothing; leave --calibration out.")
    scales = ScalesFile.read(options.calibration, checkpoint.spec)
    scales.check_recipe(checkpoint, recipe, cache_precision)
    if given is not None and (scales.weights is not None or scales.smoothed or scales.kept):
        raise CalibrationError(WEIGHTS_STAY)
    if static and recipe.compute_type == "float16":
        refuse_float16_ranges(scales)
    return scales


def calibrated(recipe: Recipe, spec: ModelSpec, scales: ScalesFile, cache_precision: str | None) -> Recipe:
    """The recipe with what calibration has decided of the cache and, where weights are quantized, of the layers."""
    recipe = replace(recipe, cache=cache_precision)
    if recipe.precision.weights is None:
        return recipe
    return replace(
        recipe,
        kept=dict(scales.kept),
        smoothed=tuple(part for part in scales.smoothed if part in explicit(spec)),
    )
