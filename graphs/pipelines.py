"""Which passes a target's graph goes through."""

from __future__ import annotations

import onnx_ir as ir

from exaone_export.cache_layout import CacheLayout
from exaone_export.graphs.hybrid_attention import portable_body
from exaone_export.graphs.passes.group_query_attention import LowerToGroupQueryAttention
from exaone_export.graphs.passes.name_layers import NameLayers
from exaone_export.graphs.passes.tidy import Tidy
from exaone_export.graphs.passes.tied_head import TiedHead
from exaone_export.targets import Target


class CarryBody(ir.passes.InPlacePass):
    """Put the operator's portable body into the model, so that any opset-24 runtime can run its nodes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Add the function."""
        body = portable_body()
        model.functions[body.identifier()] = body
        model.graph.opset_imports[body.domain] = 1
        return ir.passes.PassResult(model, modified=True)


def passes_for(target: Target, layout: CacheLayout) -> list[ir.passes.PassBase]:
    """The passes of ``target``, in order."""
    attention = {
        "body": CarryBody,
        "gqa": lambda: LowerToGroupQueryAttention(layout.max_length),
    }[target.attention]
    return [Tidy(), NameLayers(), TiedHead(), attention()]


def rewrite(model: ir.Model, target: Target, layout: CacheLayout) -> ir.Model:
    """Turn a traced graph into the target's graph, in place."""
    return ir.passes.Sequential(*passes_for(target, layout))(model).model
