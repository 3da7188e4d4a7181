"""Which passes a target's graph goes through."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.precision import Recipe
from exaone_export.targets.target import Target

from .hybrid_attention import portable_body
from .passes.group_query_attention import LowerToGroupQueryAttention
from .passes.half_norms import HalfNorms
from .passes.name_layers import NameLayers
from .passes.quantize_products import QuantizeProducts
from .passes.quantized_kernels import LowerToQuantizedKernels
from .passes.tensor_scatter import LowerToTensorScatter
from .passes.tidy import Tidy
from .passes.tied_head import TiedHead


class CarryBody(ir.passes.InPlacePass):
    """Put the operator's portable body into the model, so that any opset-24 runtime can run its nodes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the function."""
        body = portable_body()
        model.functions[body.identifier()] = body
        model.graph.opset_imports[body.domain] = 1
        return ir.passes.PassResult(model, modified=True)


def passes_for(target: Target, layout: CacheLayout, spec: ModelSpec, recipe: Recipe) -> list[ir.passes.PassBase]:
    """The passes of ``target``, in order."""
    lowering: dict[str, list[Callable[[], ir.passes.PassBase]]] = {
        "body": [CarryBody],
        "node": [],
        "gqa": [lambda: LowerToGroupQueryAttention(layout.max_length, cache=recipe.cache)],
        "gqa-fused": [lambda: LowerToGroupQueryAttention(layout.max_length, fused=True), HalfNorms],
        "scatter": [lambda: LowerToTensorScatter(layout), CommonSubexpressionEliminationPass],
    }
    attention = [make() for make in lowering[target.attention]]
    if recipe.kernels:
        return [Tidy(), NameLayers(), LowerToQuantizedKernels(spec, recipe), *attention]
    return [Tidy(), NameLayers(), TiedHead(), *attention, QuantizeProducts(spec, recipe)]


def rewrite(model: ir.Model, target: Target, layout: CacheLayout, spec: ModelSpec, recipe: Recipe) -> ir.Model:
    """Turn a traced graph into the target's graph, in place."""
    return ir.passes.Sequential(*passes_for(target, layout, spec, recipe))(model).model
