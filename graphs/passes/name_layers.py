"""Names of the layers' outputs, the same in every target's graph."""

from __future__ import annotations

import onnx_ir as ir

from ..verify import read_layers


class NameLayers(ir.passes.InPlacePass):
    """Name the output of layer ``i`` ``layers.{i}.output``, so that a numerical difference can be traced to its layer.

    1. The value behind a layer's second residual sum is renamed.

    Left alone: every other value, and the names of inputs, outputs and initializers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename in place."""
        modified = False
        for reading in read_layers(model):
            name = f"layers.{reading.index}.output"
            modified |= reading.output.name != name
            reading.output.name = name
        return ir.passes.PassResult(model, modified=modified)
