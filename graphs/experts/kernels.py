"""A sparse layer as one of ONNX Runtime's operators for mixtures of experts."""

from __future__ import annotations

import onnx_ir as ir

from exaone_export.model.dtypes import DTYPES
from exaone_export.model.expert_tensors import experts_name
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.precision import Storage
from exaone_export.targets.recipe import Recipe

from ..constants import CONTRIB_DOMAIN, ints, scalar
from ..wanted import ReplacedWeight, Wanted, want
from .operator import RoutedExperts, ensure_lowered, routed_experts_nodes
from .routing import route

__all__ = ["LowerToExpertKernels"]

_FLOAT = ir.DataType.FLOAT

# What the operators' softmax makes zero of, beside the logarithm of a score.
_NOT_CHOSEN = -1e4
# A score that has no logarithm; transformers gives such an expert no weight either.
_SMALLEST = 1e-37


class LowerToExpertKernels(ir.passes.InPlacePass):
    """Compute sparse layers with ``com.microsoft::MoE``, or ``QMoE`` where the recipe quantizes experts.

    1. The router stands in front in standard operators, in float32. The operator, whose own router is another, is
       handed the logarithms of the chosen experts' scores and -10,000 for the others: its softmax, top-k and
       normalization turn them back into the scores divided by their sum.
    2. The scale of the scores, and their sum where they are not divided by it, is multiplied behind the operator.
    3. The stacked weights lie as the operator has them, without data: ``[E, out, in]``, a row of gate and one of up in
       turn (``swiglu_fusion`` 1, the only form of SwiGLU on the processor); ``QMoE`` has two of four bits to a byte,
       unsigned, and scales ``[E, out]`` or ``[E, out, in / block]``.

    Left alone: shared experts, dense layers, and a graph without sparse ones.

    Ensures: no node of the operator is left, nor a stack of weights in the traced layout.

    Args:
        spec: The architecture.
        recipe: What to store.
    """

    def __init__(self, spec: ModelSpec, recipe: Recipe) -> None:
        super().__init__()
        self.layers = [layer.index for layer in spec.layers if layer.sparse is not None]
        self.storage = recipe.experts or Storage(recipe.compute_type)

    def ensures(self, model: ir.Model) -> None:
        """Check that nothing of the traced form is left."""
        ensure_lowered(model)
        names = {experts_name(layer, product) for layer in self.layers for product in ("gate_up", "down")}
        if left := sorted(names.intersection(model.graph.initializers)):
            raise ir.passes.PostconditionError(f"experts {left} are left as they were traced")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower in place."""
        nodes = routed_experts_nodes(model)
        for layer, found in zip(self.layers, nodes, strict=True):
            self._lower(layer, found)
        if nodes:
            model.opset_imports[CONTRIB_DOMAIN] = 1
        return ir.passes.PassResult(model, modified=bool(nodes))

    def _lower(self, layer: int, found: RoutedExperts) -> None:
        tape = ir.tape.Tape()
        routing = route(tape, found)
        experts, hidden, size = found.sizes
        length = tape.op("Shape", [routing.tokens], {"start": 0, "end": 1})
        shape = tape.op("Concat", [length, ints(tape, experts)], {"axis": 0})
        logits = tape.op("Log", [tape.op("Max", [routing.scores, scalar(tape, _SMALLEST)])])
        others = tape.op("Expand", [scalar(tape, _NOT_CHOSEN), shape])
        spread = tape.op("ScatterElements", [others, routing.indices, logits], {"axis": 1})

        gate_up = self._weight(found, layer, "gate_up", (experts, 2 * size, hidden))
        down = self._weight(found, layer, "down", (experts, hidden, size))
        attributes: dict[str, object] = {
            "k": found.integer("chosen"),
            "activation_type": "swiglu",
            "swiglu_fusion": 1,
            "activation_alpha": 1.0,
            "activation_beta": 0.0,
            "normalize_routing_weights": 1,
        }
        if self.storage.weights == "float32":
            name, operands = "MoE", [gate_up[0], None, down[0]]
        else:
            name, operands = "QMoE", [*gate_up, None, *down]
            attributes["expert_weight_bits"] = DTYPES[self.storage.weights].bits
            if self.storage.block:
                attributes["block_size"] = self.storage.block
        mixed = tape.op(name, [routing.tokens, spread, *operands], attributes, domain=CONTRIB_DOMAIN)
        factor = scalar(tape, found.scale)
        if not found.integer("normalized"):
            factor = tape.op("Mul", [tape.op("ReduceSum", [routing.scores, ints(tape, -1)]), factor])
        output = tape.op("Reshape", [tape.op("Mul", [mixed, factor]), tape.op("Shape", [found.hidden])])
        output.dtype, output.shape = _FLOAT, found.hidden.shape
        graph = found.graph
        found.replace(tape, output)
        for stack in (found.gate_up, found.down):
            del graph.initializers[str(stack.name)]

    def _weight(
        self, found: RoutedExperts, layer: int, product: str, shape: tuple[int, int, int]
    ) -> tuple[ir.Value, ...]:
        source, storage = experts_name(layer, product), self.storage
        weight = ReplacedWeight(source, layer, f"experts.{product}", storage)
        values, scale = (Wanted(weight, field) for field in ("values", "scale"))
        experts, outputs, inputs = shape
        if storage.weights == "float32":
            return (want(found.graph, f"{source}.rows", _FLOAT, shape, values),)
        packed = (experts, outputs, inputs * DTYPES[storage.weights].bits // 8)
        scales = (experts, outputs, inputs // storage.block) if storage.block else (experts, outputs)
        return (
            want(found.graph, f"{source}.quantized", ir.DataType.UINT8, packed, values),
            want(found.graph, f"{source}.scale", _FLOAT, scales, scale),
        )
