"""The recipe of a checkpoint that was published quantized: its own, where the target has an operator for it."""

from __future__ import annotations

from dataclasses import replace

from exaone_export.errors import ConfigError
from exaone_export.exporter.prequantized.form import Quantization
from exaone_export.precision import PARTS, PRECISIONS, Recipe, canonical
from exaone_export.spec import ModelSpec
from exaone_export.targets import Target

__all__ = ["own_precision", "own_recipe"]

_REPEATED = 128
"""The block that a scale of a whole channel is repeated for, where an operator takes blocks only."""


def own_precision(quantization: Quantization, asked: str | None, target: Target) -> str:
    """The precision that the checkpoint has.

    Raises:
        ConfigError: Another one was asked for, or some projections of the checkpoint are in floating point.
        TargetError: The target does not run it.
    """
    rounds = quantization.activations is not None
    found = next(
        precision.name
        for precision in PRECISIONS.values()
        if precision.weights == quantization.weights
        and (precision.activations is not None) == (rounds or precision.weights == "float8_e4m3fn")
    )
    if target.kernels and found == "int8":
        found = "int8-weights"  # its codes have eight bits, and the operator for int8 takes seven
    if asked is not None and canonical(asked) != found:
        raise ConfigError(
            f"the checkpoint is quantized to {found} already, and {asked} would round it a second time: leave "
            f"--precision out."
        )
    if quantization.unquantized:
        raise ConfigError(
            f"the checkpoint quantizes some projections and leaves others, such as {quantization.unquantized[0]}, in "
            f"floating point; export the unquantized checkpoint with --precision {found}."
        )
    return target.check_precision(found)


def own_recipe(spec: ModelSpec, quantization: Quantization, recipe: Recipe) -> Recipe:
    """``recipe`` with the blocks and the zero points of the checkpoint.

    Raises:
        ConfigError: The target's operators do not take them.
    """
    form = f"{quantization.method} checkpoint with {quantization.weights} weights"
    if not quantization.symmetric and not (recipe.kernels and quantization.weights == "int4"):
        raise ConfigError(
            f"a {form} and zero points needs an operator that takes them: export int4 to --target ort-cpu or "
            f"ort-cuda, or quantize the unquantized checkpoint."
        )
    block = quantization.block or (_REPEATED if recipe.kernels else 0)
    if bool(block) != bool(recipe.blocks):
        raise ConfigError(
            f"a {form} in {f'blocks of {block}' if block else 'whole channels'} has no form on this target; export the "
            f"unquantized checkpoint with --precision {recipe.precision.name}."
        )
    blocks = dict.fromkeys(PARTS, block) if block else {}
    if not quantization.block and any(block > size for size in recipe.blocks.values()):
        blocks = dict(recipe.blocks)
    return replace(recipe, blocks=blocks, zero_points=not quantization.symmetric)
