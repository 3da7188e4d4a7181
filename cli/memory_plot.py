"""A plot of a plan: memory against context length, as it is and as it would be with every layer global."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exaone_export.files.images import new_figure
from exaone_export.planning.deployment import Deployment
from exaone_export.planning.fitting import Fit
from exaone_export.planning.memory_plan import MemoryPlan
from exaone_export.planning.sizes import format_size

__all__ = ["plot"]

_WEIGHTS, _WORK, _GLOBAL, _LOCAL, _LINE = "#4878a8", "#a8bccf", "#e08a3c", "#f3c590", "#2b2b2b"
_POINTS, _SHORTEST = 96, 2


def plot(deployment: Deployment, fits: Mapping[str, Fit], path: Path) -> None:
    """Draw what running takes at every length up to the model's limit; see `new_figure` for the errors.

    Args:
        deployment: Its maximum length is marked.
        fits: Memories to mark, by name.
        path: The file.
    """
    limit = deployment.spec.max_position_embeddings
    lengths = sorted({max(limit * point // _POINTS, min(_SHORTEST, limit)) for point in range(_POINTS + 1)})
    plans = [MemoryPlan.of(deployment.with_length(length)) for length in lengths]
    hybrid = bool(plans[-1].cache.local_layers)

    figure = new_figure(path, 8, 5)
    axes = figure.subplots()
    parts = [
        ("weights", [_gib(plan.weights_held) for plan in plans], _WEIGHTS),
        ("activations and workspace", [_gib(plan.activations + plan.workspace) for plan in plans], _WORK),
        ("cache, global layers", [_gib(plan.cache.global_) for plan in plans], _GLOBAL),
        ("cache, local layers", [_gib(plan.cache.local) for plan in plans], _LOCAL),
    ]
    shown = [part for part in parts if any(part[1])]
    axes.stackplot(
        lengths,
        *(sizes for _, sizes, _ in shown),
        labels=[label for label, _, _ in shown],
        colors=[color for _, _, color in shown],
    )
    if hybrid:
        every = [_gib(plan.run_peak - plan.cache.total + plan.cache.all_global) for plan in plans]
        axes.plot(lengths, every, color=_LINE, linestyle="--", label="with every layer global")
    for name, found in fits.items():
        axes.axhline(_gib(found.memory), color=_LINE, linewidth=1)
        axes.annotate(
            f"{name}, {format_size(found.memory)}",
            (limit, _gib(found.memory)),
            (-6, 0),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="center",
            bbox={"facecolor": "white", "edgecolor": _LINE, "linewidth": 0.5, "boxstyle": "round,pad=0.25"},
            parse_math=False,
        )
    label = f"maximum length, {deployment.max_length:,} tokens"
    axes.axvline(deployment.max_length, color=_LINE, linestyle=":", label=label, clip_on=False)  # it may be the edge
    axes.set_xlim(lengths[0], limit)
    axes.set_ylim(bottom=0)
    axes.margins(y=0.08)
    axes.set_xlabel("context length (tokens per row)")
    axes.set_ylabel("GPU memory (GiB)" if deployment.on_gpu else "memory (GiB)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(_title(deployment))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=120)


def _title(deployment: Deployment) -> str:
    rows = "1 row" if deployment.batch == 1 else f"{deployment.batch:,} rows"
    layers = f"{deployment.spec.num_hidden_layers} layers, hidden size {deployment.spec.hidden_size:,}"
    precision = deployment.recipe.precision.name
    return f"{layers}, {deployment.target.name}, {precision}, cache in {deployment.cache_type}, {rows}"


def _gib(count: int) -> float:
    return count / 2**30
