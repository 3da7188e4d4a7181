"""The check before any work: whether this machine's disk and memory are large enough for an export or a build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exaone_export.errors import CapacityError, ConfigError
from exaone_export.files.staged_folder import bytes_left_behind
from exaone_export.planning import machine
from exaone_export.planning.deployment import Deployment
from exaone_export.planning.fitting import largest
from exaone_export.planning.memory_plan import MemoryPlan
from exaone_export.planning.sizes import format_size
from exaone_export.targets.recipe import Recipe

__all__ = ["build_shortfall", "export_shortfall", "refuse"]

_ROUND = 256
# A context shorter than this fraction of the requested one is not proposed.
_USEFUL = 1 / 16


def refuse(shortfall: str | None) -> None:
    """Raise CapacityError with the shortfall, if there is one."""
    if shortfall is not None:
        raise CapacityError(shortfall)


def export_shortfall(deployment: Deployment, out: str | Path, *, fixed_precision: bool = False) -> str | None:
    """Why an export would fail for want of disk or memory.

    Args:
        deployment: What is exported.
        out: The artifact folder.
        fixed_precision: Whether the checkpoint is quantized already, so that no other precision can be proposed.

    Returns:
        One sentence with the nearest deployment that fits; None where there is enough.
    """

    def nearest(fits: Callable[[MemoryPlan], bool]) -> str:
        return _nearest("pass", deployment, fits, fixed_precision)

    plan, free, memory = MemoryPlan.of(deployment), _free(out), _memory()
    if plan.disk > free:
        return _no_disk("artifact", plan.disk, free, out) + nearest(lambda other: other.disk <= free) + _ELSEWHERE
    if memory is not None and plan.export_peak > memory:
        wanted = _no_memory("export", plan.export_peak, memory)
        return wanted + nearest(lambda other: other.export_peak <= memory) + _MORE
    return None


def build_shortfall(deployment: Deployment, out: str | Path) -> str | None:
    """Why the build of an engine would fail for want of disk or memory; see `export_shortfall`.

    Args:
        deployment: What the artifact was exported with.
        out: The engine's folder.
    """

    def nearest(fits: Callable[[MemoryPlan], bool]) -> str:
        return _nearest("export with", deployment, fits, False)

    plan, free, memory = MemoryPlan.of(deployment), _free(out), _memory()
    assert plan.build_peak is not None and plan.engine_disk is not None
    if plan.engine_disk > free:
        wanted = _no_disk("engine", plan.engine_disk, free, out)
        return wanted + nearest(lambda other: (other.engine_disk or 0) <= free) + _ELSEWHERE
    if memory is not None and plan.build_peak > memory:
        wanted = _no_memory("build", plan.build_peak, memory)
        return wanted + nearest(lambda other: (other.build_peak or 0) <= memory) + _MORE
    return None


_ELSEWHERE, _MORE = "choose another destination.", "run it where there is more, or pass --no-plan-check."


def _free(out: str | Path) -> int:
    """Bytes for a new folder there; the work of an interrupted run is continued or removed, so it counts as free."""
    return machine.free_disk(Path(out)) + bytes_left_behind(out)


def _no_disk(what: str, needed: int, free: int, out: str | Path) -> str:
    left = bytes_left_behind(out)
    of_it = f", {format_size(left)} of it used by an interrupted run" if left else ""
    return f"the {what} takes {format_size(needed)} and {out} has {format_size(free)} free{of_it}; "


def _no_memory(what: str, needed: int, memory: int) -> str:
    return f"the {what} takes {format_size(needed)} of memory and {format_size(memory)} are available; "


def _memory() -> int | None:
    """Bytes that this process can use in total, its current ones included; None if the system does not say."""
    available = machine.available_memory()
    return None if available is None else available + machine.resident_memory()


def _nearest(verb: str, deployment: Deployment, fits: Callable[[MemoryPlan], bool], fixed_precision: bool) -> str:
    """The options that come nearest to a deployment and fit, as the first half of a fix; empty if there are none."""
    shortest = max(int(deployment.max_length * _USEFUL), 2)
    length = largest(
        lambda tokens: fits(MemoryPlan.of(deployment.with_length(tokens))), shortest, deployment.max_length
    )
    options = []
    if length is not None:
        rounded = length // _ROUND * _ROUND
        options.append(f"--max-length {rounded if rounded >= shortest else length}")
    if not fixed_precision:
        others = [MemoryPlan.of(other) for other in _other_precisions(deployment)]
        fitting = [plan for plan in others if fits(plan)]
        if fitting:
            best = max(fitting, key=lambda plan: plan.weight_bytes)
            options.append(f"--precision {best.deployment.recipe.precision.name}")
    return f"{verb} {' or '.join(options)}, or " if options else ""


def _other_precisions(deployment: Deployment) -> list[Deployment]:
    """The same in the target's other precisions, except those that need a calibration first."""
    found = []
    for name in deployment.target.precisions:
        if name == deployment.recipe.precision.name:
            continue
        try:
            compute_type = deployment.target.check_compute_type(name, None)
            recipe = Recipe.plan(deployment.spec, name, compute_type, kernels=deployment.target.kernels)
        except ConfigError:  # the model's sizes have no such blocks
            continue
        if recipe.precision.activations is None or recipe.kernels:
            found.append(replace(deployment, recipe=replace(recipe, cache=deployment.recipe.cache)))
    return found
