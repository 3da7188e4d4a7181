"""The passes of each target, in order."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import Target

from .experts.kernels import LowerToExpertKernels
from .experts.standard import LowerToStandard
from .passes.carry_body import CarryBody
from .passes.give_hidden_states import GiveHiddenStates
from .passes.group_query_attention import LowerToGroupQueryAttention
from .passes.half_norms import HalfNorms
from .passes.inline_body import InlineBody
from .passes.name_layers import NameLayers
from .passes.open_to_others import OpenToOthers
from .passes.quantize_products import QuantizeProducts
from .passes.quantized_kernels import LowerToQuantizedKernels
from .passes.repeat_layers import RepeatLayers, kinds_of
from .passes.tensor_scatter import LowerToTensorScatter
from .passes.tidy import Tidy
from .passes.tied_head import TiedHead


def passes_for(
    target: Target, layout: CacheLayout, spec: ModelSpec, recipe: Recipe, *, inline: bool = False
) -> list[ir.passes.PassBase]:
    """The passes of ``target``, in order."""
    lowering: dict[str, list[Callable[[], ir.passes.PassBase]]] = {
        "body": [CarryBody, InlineBody] if inline else [CarryBody],
        "node": [],
        "gqa": [lambda: LowerToGroupQueryAttention(layout.max_length, cache=recipe.cache)],
        "gqa-fused": [lambda: LowerToGroupQueryAttention(layout.max_length, fused=True), HalfNorms],
        "scatter": [lambda: LowerToTensorScatter(layout), CommonSubexpressionEliminationPass],
    }
    attention: list[ir.passes.PassBase] = [make() for make in lowering[target.attention]]
    if target.experts == "kernel":
        attention.append(LowerToExpertKernels(spec, recipe))
    else:
        attention.append(LowerToStandard(target.experts))
    whole = [RepeatLayers(kinds_of(spec, layout)), Tidy(), NameLayers()]
    last: list[ir.passes.PassBase] = [GiveHiddenStates(spec)]
    if target.opens_elsewhere:
        last.append(OpenToOthers(spec, layout))
    if recipe.kernels:
        return [*whole, LowerToQuantizedKernels(spec, recipe), *attention, *last]
    return [*whole, TiedHead(), *attention, QuantizeProducts(spec, recipe), *last]


def lower(
    model: ir.Model, target: Target, layout: CacheLayout, spec: ModelSpec, recipe: Recipe, *, inline: bool = False
) -> ir.Model:
    """Turn a traced graph into the target's, in place.

    Args:
        model: One layer of each kind, see `kinds_of`; its initializers have no data.
        target: Where the graph will run.
        layout: The caches.
        spec: The architecture.
        recipe: How weights are stored.
        inline: Whether the model's functions are replaced by their bodies, on a target whose graph carries one.

    Returns:
        The same object. `exaone_export.graphs.wanted.wanted` lists the initializers that the passes have added.
    """
    for graph_pass in passes_for(
        target, layout, spec, recipe, inline=inline
    ):  # `ir.passes.Sequential` would hide a pass's own error
        model = graph_pass(model).model
    return model
