"""Names that the layers' results keep in every target's graph."""

from __future__ import annotations

import onnx_ir as ir

from ..verify import read_layers


class NameLayers(ir.passes.InPlacePass):
    """Call what layer ``i`` hands on ``layers.{i}.output``, so that a departure can be traced to its layer.

    Left alone: every other value, and the names of inputs, outputs and initializers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in place."""
        for reading in read_layers(model):
            reading.output.name = f"layers.{reading.index}.output"
        return ir.passes.PassResult(model, modified=True)
