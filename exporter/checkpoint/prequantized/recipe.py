"""The recipe of a checkpoint that was published quantized: its own, if the target has an operator for it."""

from __future__ import annotations

from dataclasses import replace

from exaone_export.errors import ConfigError, TargetError
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS, weight_name, weight_table
from exaone_export.targets.precision import FLOATS, PRECISIONS
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import TARGETS, Target

from .form import Quantization

__all__ = ["own_precision", "published_recipe"]

_REPEATED = 128
"""The block that a scale of a whole channel is repeated for, where an operator takes blocks only."""


def published_recipe(
    spec: ModelSpec, quantization: Quantization, target: Target, asked: str | None, compute_type: str | None
) -> Recipe:
    """The recipe with the precision, the blocks and the zero points that the checkpoint has.

    Args:
        spec: The architecture.
        quantization: How the projections are stored.
        target: Where the graph will run.
        asked: The requested precision; one of `FLOATS` for the weights that the codes stand for.
        compute_type: Of what is left in floating point; the target's first by default.

    Raises:
        ConfigError: The requested precision would round the weights again, or the target has no operator for
            their form.
        TargetError: The target does not run the precision.
    """
    try:
        return _plan(spec, quantization, target, asked, compute_type)
    except (ConfigError, TargetError) as cause:
        ways = _ways(spec, quantization, target, asked, compute_type)
        raise type(cause)(f"{cause}; {ways}.") from None


def _ways(
    spec: ModelSpec, quantization: Quantization, target: Target, asked: str | None, compute_type: str | None
) -> str:
    """Options that would work instead, each checked; no weight is read."""

    def works(target: Target, asked: str | None, compute_type: str | None) -> bool:
        try:
            _plan(spec, quantization, target, asked, compute_type)
        except (ConfigError, TargetError):
            return False
        return True

    ways = []
    if works(target, asked, None):
        ways.append("leave --compute-type out")
    elif works(target, None, compute_type):
        ways.append("leave --precision out")
    elif works(target, None, None):
        ways.append("leave --precision and --compute-type out")
    else:
        for without, options in ((asked, ""), (None, " and leave --precision out")):
            if names := [name for name, other in TARGETS.items() if works(other, without, compute_type)]:
                ways.append(f"pass --target {' or '.join(names)}{options}")
                break
    plain = next(name for name in target.precisions if name in FLOATS)
    if asked != plain:
        alone = "" if works(target, plain, compute_type) else " alone"
        ways.append(f"pass --precision {plain}{alone} to export the weights that the codes stand for")
    return ", or ".join(ways)


def _plan(
    spec: ModelSpec, quantization: Quantization, target: Target, asked: str | None, compute_type: str | None
) -> Recipe:
    """As `published_recipe`, with error messages that do not contain the fix."""
    floats = [name for name in target.precisions if name in FLOATS]
    if compute_type is not None and compute_type not in floats:
        raise TargetError(f"target {target.name} does not compute in {compute_type!r}")
    if asked in floats:
        if compute_type not in (None, asked):
            raise TargetError(f"precision {asked} is not computed in {compute_type!r}")
        return Recipe.plan(spec, asked, asked)
    own = _own_recipe(spec, quantization, target, compute_type or floats[0])
    if asked in FLOATS:
        raise TargetError(f"target {target.name} does not run precision {asked!r}")
    if asked not in (None, own.precision.name):
        raise ConfigError(
            f"the checkpoint is already quantized to {own.precision.name}, and {asked} would round it a second time"
        )
    return own


def _own_recipe(spec: ModelSpec, quantization: Quantization, target: Target, compute_type: str) -> Recipe:
    form = f"{quantization.weights} weights of {quantization.method}"
    precision = own_precision(quantization, target)
    if precision is None:
        raise ConfigError(
            f"{form} with {quantization.activations} activations in {quantization.weights} have no operator"
        )
    if precision not in target.precisions:
        raise TargetError(f"the checkpoint is quantized to {precision}, which target {target.name} does not run")
    try:
        recipe = Recipe.plan(spec, precision, compute_type, kernels=target.kernels)
    except ConfigError as error:
        raise ConfigError(str(error).rpartition(": ")[0]) from error
    if not quantization.symmetric and not (recipe.kernels and quantization.weights == "int4"):
        raise ConfigError(f"{form} with zero points have no operator on target {target.name}")
    block = quantization.block or (_REPEATED if recipe.kernels else 0)
    if bool(block) != bool(recipe.blocks):
        scales = f"in blocks of {block}" if block else "in whole channels"
        raise ConfigError(f"{form} {scales} have no operator on target {target.name}")
    blocks = dict.fromkeys(PROJECTIONS, block) if block else {}
    if not quantization.block and any(block > size for size in recipe.blocks.values()):
        blocks = dict(recipe.blocks)
    unquantized = _unquantized(spec, quantization)
    return replace(recipe, blocks=blocks, zero_points=not quantization.symmetric, unquantized=unquantized)


def own_precision(quantization: Quantization, target: Target) -> str | None:
    """The precision of a target that the checkpoint's codes have; None where there is none."""
    rounds = quantization.activations is not None or quantization.weights == "float8_e4m3fn"
    for precision in PRECISIONS.values():
        if precision.weights == quantization.weights and (precision.activations is not None) == rounds:
            # The codes have eight bits, and ONNX Runtime's operator for int8 takes seven.
            return "int8-weights" if target.kernels and precision.name == "int8" else precision.name
    return None


def _unquantized(spec: ModelSpec, quantization: Quantization) -> dict[int, tuple[str, ...]]:
    """By layer, the products that are computed in floating point, because one of their projections is stored so."""
    left, table = {f"{module}.weight" for module in quantization.unquantized}, weight_table(spec)
    found = {}
    for layer in range(spec.num_hidden_layers) if left else ():
        projections = tuple(name for name in PROJECTIONS if left.intersection(table[weight_name(layer, name)].names))
        if projections:
            found[layer] = projections
    return found
