"""Smoothing a layer: its products' inputs divided by a factor a channel, and their weights multiplied by it.

In front of ``output`` and ``down`` stands a weight, the rows of values or of up, that takes the division, so that the
graph stays as it is. In front of ``qkv`` and ``gate_up`` stands a norm that does the same, or, where norms stand on the
outputs, the residual stream, which others read too, so that the division stays in the graph (explicit smoothing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from exaone_export.calibration.smoothquant import share_in_groups, smoothing
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS, layer_norms

from ..reference.layer_stream import StreamedLayer

__all__ = [
    "BEHIND_WEIGHTS",
    "apply_smoothing",
    "explicit",
    "folded",
    "smoothquant_factors",
    "tie_heads",
    "weight_factors",
]

BEHIND_WEIGHTS = tuple(name for name, projection in PROJECTIONS.items() if projection.behind is not None)
"""Projections whose inputs another weight's rows give."""

# The inputs' outliers go into the weight whole: nothing normalizes the residual stream, and a weight has a scale for
# every output channel. Of 0.5, 0.75, 0.9 and 1, this one lost least of the tiny checkpoint.
_ALPHA = 1.0

Factors = Mapping[str, torch.Tensor]


def folded(spec: ModelSpec) -> tuple[str, ...]:
    """The projections whose division a weight or a norm in front of them takes."""
    normed = {norm.before for norm in layer_norms(spec)}
    return tuple(name for name in PROJECTIONS if name in BEHIND_WEIGHTS or name in normed)


def explicit(spec: ModelSpec) -> tuple[str, ...]:
    """The others, whose division stays in the graph."""
    return tuple(name for name in PROJECTIONS if name not in folded(spec))


def weight_factors(
    spec: ModelSpec, projection: str, smoothing_of: Callable[[str], torch.Tensor | None]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What smoothing does to one weight ``[out, in]``: ``w / rows[:, None] * columns``, in exact arithmetic the same.

    Args:
        spec: The architecture.
        projection: Whose weight.
        smoothing_of: By projection, its inputs' smoothing ``[in]``, or None.

    Returns:
        The divisor of rows ``[out]`` and the factor of columns ``[in]``, float32; None where there is none.
    """
    rows = None
    if projection == "qkv" and (factor := smoothing_of("output")) is not None:
        # Query heads of a group read one head of values, so their factors are alike.
        groups = spec.num_attention_heads // spec.num_key_value_heads
        values = factor.reshape(spec.num_key_value_heads, groups, spec.head_dim)[:, 0].reshape(-1)
        rows = torch.cat(
            (values.new_ones((spec.num_attention_heads + spec.num_key_value_heads) * spec.head_dim), values)
        )
    if projection == "gate_up" and (factor := smoothing_of("down")) is not None:
        rows = torch.cat((torch.ones_like(factor), factor))
    return rows, smoothing_of(projection)


def apply_smoothing(streamed: StreamedLayer, factors: Factors) -> None:
    """Change a layer's weights in place, and divide the inputs of its explicit projections from now on."""
    in_graph = explicit(streamed.spec)
    with torch.no_grad():
        for norm in layer_norms(streamed.spec):
            if norm.before is not None and norm.before in factors:
                streamed.layer.get_parameter(norm.name).div_(factors[norm.before])
        for projection, product in streamed.products.items():
            rows, columns = weight_factors(streamed.spec, projection, factors.get)
            if rows is not None:
                product.weight.div_(rows)  # [in, out]
            if columns is not None:
                product.weight.mul_(columns[:, None])
                if projection in in_graph:
                    product.register_forward_pre_hook(_divide_by(columns))


def smoothquant_factors(
    streamed: StreamedLayer, channel_maximum: Mapping[str, torch.Tensor], projections: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """SmoothQuant's factors of these projections, in the order in which they are folded: ``[in]`` float32 each."""
    spec, found = streamed.spec, dict[str, torch.Tensor]()
    for projection in (
        *BEHIND_WEIGHTS,
        *(name for name in projections if name not in BEHIND_WEIGHTS),
    ):  # folding changes the weights in front
        weight, maximum = streamed.products[projection].weight.T, channel_maximum[projection]
        rows, _ = weight_factors(spec, projection, found.get)
        if rows is not None:
            weight = weight / rows[:, None]
        factor = smoothing(maximum, weight, _ALPHA)
        # A common factor changes no step; without it, smoothed inputs have the magnitude that they had.
        factor = factor / factor.median()
        found[projection] = tie_heads(spec, factor) if projection == "output" else factor
    return found


def tie_heads(spec: ModelSpec, factor: torch.Tensor) -> torch.Tensor:
    """``[in]`` of the output projection with one factor for a channel of values, whichever query head reads it."""
    shared = share_in_groups(factor, spec.num_attention_heads, spec.num_key_value_heads)
    groups = spec.num_attention_heads // spec.num_key_value_heads
    return shared.reshape(spec.num_key_value_heads, 1, spec.head_dim).expand(-1, groups, -1).reshape(-1)


def _divide_by(factor: torch.Tensor) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    return lambda _module, inputs: (inputs[0] / factor, *inputs[1:])
