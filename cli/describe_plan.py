"""A memory plan as text, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exaone_export.model.tensors import num_parameters
from exaone_export.planning.fitting import Fit
from exaone_export.planning.memory_plan import CacheBytes, MemoryPlan
from exaone_export.planning.process_memory import output_positions
from exaone_export.planning.sizes import format_size

from .describe_head import describe_head
from .tables import Column, facts, grid


def as_plan_json(plan: MemoryPlan, fits: Mapping[str, Fit]) -> str:
    """The plan as JSON, in bytes."""
    return json.dumps(plan_dict(plan, fits), indent=2)


def plan_dict(plan: MemoryPlan, fits: Mapping[str, Fit]) -> dict[str, Any]:
    """The plan and what fits, by the name of the memory."""
    return {**plan.to_dict(), "fits": {name: found.to_dict() for name, found in fits.items()}}


def as_plan_table(plan: MemoryPlan, fits: Mapping[str, Fit]) -> str:
    """The plan as lines of a name, a size and what is in it: what running takes, part by part, then the rest."""
    memory = "GPU memory" if plan.deployment.on_gpu else "memory"
    total = plan.weights_held + plan.cache.total + plan.activations + plan.workspace
    rows = [
        ("weights", format_size(plan.weights_held), _weights_fact(plan)),
        ("KV cache", format_size(plan.cache.total), _cache_fact(plan.cache)),
        ("activations", format_size(plan.activations), _activations_fact(plan)),
        ("workspace", format_size(plan.workspace), _workspace_fact(plan)),
        (f"{memory} to run", format_size(plan.run_peak), _run_fact(plan, total)),
        ("memory to export", format_size(plan.export_peak), "peak"),
    ]
    if plan.build_peak is not None:
        rows.append(("memory to build", format_size(plan.build_peak), "peak, of the engine's build"))
    rows.append(("disk", format_size(plan.disk), f"the artifact: {_disk_fact(plan)}"))
    if plan.engine_disk is not None:
        rows.append(("", format_size(plan.engine_disk), "the engine"))
    rows += [(name, format_size(found.memory), _fit_fact(found, plan)) for name, found in fits.items()]
    head = facts([("model", _model_fact(plan)), ("setting", _deployment_fact(plan))])
    table = grid([Column("", left=True), Column(""), Column("", left=True)], rows)
    return f"{head}\n\n{table}"


def _activations_fact(plan: MemoryPlan) -> str:
    step, positions = _tokens(plan.deployment.step_tokens), output_positions(plan.deployment)
    return f"of a step of {step}" + (f", and outputs for {_tokens(positions)}" if positions > 1 else "")


def _weights_fact(plan: MemoryPlan) -> str:
    held = "as the runtime holds them"
    without = plan.without_prefill()
    if without is None:
        return held
    return f"{held}; {format_size(without.weights_held)} with --no-prefill-graph"


def _run_fact(plan: MemoryPlan, total: int) -> str:
    return "the sum, with every row filled" if plan.run_peak == total else "peak, while weights are repacked at loading"


def _model_fact(plan: MemoryPlan) -> str:
    spec = plan.deployment.spec
    head = "" if spec.head.is_causal_lm else f", {describe_head(spec.head)}"
    return f"{spec.model_type}, {spec.num_hidden_layers} layers, {num_parameters(spec):,} parameters{head}"


def _deployment_fact(plan: MemoryPlan) -> str:
    deployment = plan.deployment
    recipe = deployment.recipe
    computed = f" computed in {recipe.compute_type}" if recipe.precision.weights is not None else ""
    if deployment.prefill is not None:
        computed = f" and {deployment.prefill.precision.name} for prompts,{computed}"
    return (
        f"{deployment.target.name}, {recipe.precision.name}{computed}, cache in {deployment.cache_type}, "
        f"{_tokens(deployment.max_length)}, {_rows(deployment.batch)}"
    )


def _disk_fact(plan: MemoryPlan) -> str:
    return ", ".join(f"{group} {format_size(size)}" for group, size in plan.weights.items() if size)


def _cache_fact(cache: CacheBytes) -> str:
    kinds = [("local", cache.local_layers, cache.local), ("global", cache.global_layers, cache.global_)]
    parts = [f"{count} {kind} layers {format_size(size)}" for kind, count, size in kinds if count]
    if cache.local_layers:
        parts.append(f"with every layer global it would be {format_size(cache.all_global)}")
    return "; ".join(parts)


def _workspace_fact(plan: MemoryPlan) -> str:
    if plan.deployment.on_gpu:
        return "CUDA and the runtime"
    # 300 MiB: what the same answer holds less without them, from the tiny checkpoint to the 1.2B.
    less = "; 300 MiB less by generate and chat" if plan.deployment.spec.head.is_causal_lm else ""
    return f"Python, PyTorch and the runtime{less}"


def _fit_fact(found: Fit, plan: MemoryPlan) -> str:
    deployment = plan.deployment
    if found.longest_context is None and found.largest_batch is None:
        return "too small for the weights"
    verdict = "fits" if found.fits else "too small"
    longest = "no context" if found.longest_context is None else f"up to {_tokens(found.longest_context)}"
    largest = "no row" if found.largest_batch is None else f"up to {_rows(found.largest_batch)}"
    return f"{verdict}: {longest} with {_rows(deployment.batch)}, {largest} of {_tokens(deployment.max_length)}"


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count != 1 else "1 token"


def _rows(count: int) -> str:
    return f"{count:,} rows" if count != 1 else "1 row"
