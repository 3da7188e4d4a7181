"""The products of every layer in a recipe's number formats, as explicit quantization in standard operators."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exaone_export.model.dtypes import DTYPES
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import PROJECTIONS, weight_name
from exaone_export.targets.recipe import Recipe

from ..topology import origin
from ..wanted import ReplacedWeight, Wanted, want


def quantized_name(weight: str) -> str:
    """The stored weight of a product."""
    return f"{weight}.quantized"


def scale_name(weight: str) -> str:
    """The scales of a stored weight."""
    return f"{weight}.scale"


def input_scale_name(weight: str) -> str:
    """The scale of a product's input."""
    return f"{weight.removesuffix('.weight')}.input_scale"


def smoothing_name(weight: str) -> str:
    """What the channels of a product's input are multiplied by: the reciprocals of the smoothing factors."""
    return f"{weight.removesuffix('.weight')}.input_smoothing"


def smooth(graph: ir.Graph, tape: ir.tape.Tape, value: ir.Value, weight: ir.Value, stored: ReplacedWeight) -> ir.Value:
    """A product's input, multiplied by a factor a channel; the factors, float32, are without data."""
    assert weight.shape is not None and isinstance(weight.shape[0], int)
    name, shape = smoothing_name(str(weight.name)), (weight.shape[0],)
    factor = want(graph, name, ir.DataType.FLOAT, shape, Wanted(stored, "input_smoothing"))
    smoothed = tape.op("Mul", [value, factor])
    smoothed.dtype, smoothed.shape = value.dtype or ir.DataType.FLOAT, value.shape
    return smoothed


def replaced_weights(spec: ModelSpec, recipe: Recipe) -> list[ReplacedWeight]:
    """The weights of layers that a recipe quantizes, in the order of the layers."""
    return [
        ReplacedWeight(weight_name(layer, projection), layer, projection, storage)
        for layer in range(spec.num_hidden_layers)
        for projection in PROJECTIONS
        if (storage := recipe.product(layer, projection)) is not None
    ]


def require_products(model: ir.Model, weights: Sequence[ReplacedWeight]) -> None:
    """Raise unless each weight is an initializer that one ``MatMul`` reads.

    Raises:
        onnx_ir.passes.PreconditionError: One is not.
    """
    for weight in weights:
        value = model.graph.initializers.get(weight.source)
        readers = [node.op_type for node in value.consumers()] if value is not None else []
        if readers != ["MatMul"]:
            raise ir.passes.PreconditionError(f"weight {weight.source} is read by {readers}, and not by one MatMul")


def ensure_replaced(model: ir.Model, weights: Sequence[ReplacedWeight]) -> None:
    """Raise unless none of the weights is left in full precision.

    Raises:
        onnx_ir.passes.PostconditionError: One is.
    """
    if left := [weight.source for weight in weights if weight.source in model.graph.initializers]:
        raise ir.passes.PostconditionError(f"weights {left} are left in full precision")


class QuantizeProducts(ir.passes.InPlacePass):
    """Store the weights of every layer's products in the recipe's format, and round their inputs where it says so.

    1. A weight ``[in, out]`` becomes an initializer of the format behind ``DequantizeLinear``: one scale for an output
       channel (``axis`` 1), or one for a block of the input dimension (``axis`` 0 and ``block_size``).
    2. Where inputs are rounded, ``QuantizeLinear`` and ``DequantizeLinear`` with one scale stand before the product.
       They take the value as it was before it was cast: the residual stream is float32, and rounding it twice would
       lose more. Scales of inputs and of their weights are float32, since TensorRT wants both alike, and float16 loses
       small ones; a cast to the compute type stands behind both. (The attribute ``output_dtype`` would say the same,
       but ONNX Runtime 1.32 loses it when it moves the node.) TensorRT makes one quantized product of it all.
    3. Where the recipe smooths a product's input, a multiplication by a factor a channel stands before the rounding.
    4. A weight whose inputs are not rounded has scales of the compute type, because TensorRT takes no others for int4.

    Left alone: the vocabulary projection, the embedding, the attention, layers in the compute type, and a
    recipe that quantizes nothing.

    Requires: each weight to be stored is read by one ``MatMul``. Ensures: none of them is left in full precision.

    Args:
        spec: The architecture.
        recipe: What to store.
    """

    def __init__(self, spec: ModelSpec, recipe: Recipe) -> None:
        super().__init__()
        self.stored, self.smoothed = replaced_weights(spec, recipe), recipe.smoothed
        self.compute_type, self.quantizes = _type(recipe.compute_type), recipe.precision.weights is not None

    def requires(self, model: ir.Model) -> None:
        """Check that one MatMul reads each weight."""
        require_products(model, self.stored)

    def ensures(self, model: ir.Model) -> None:
        """Check that no weight is left in full precision."""
        ensure_replaced(model, self.stored)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Quantize in place."""
        for stored in self.stored:
            weight = model.graph.initializers[stored.source]
            (product,) = weight.consumers()
            self._store_weight(model.graph, product, weight, stored)
            smoothed = stored.product in self.smoothed
            if stored.storage.inputs is not None or smoothed:
                self._prepare_input(model.graph, product, weight, stored, smoothed)
            del model.graph.initializers[stored.source]
        # The casts that rounding replaces.
        removed = self.quantizes and RemoveUnusedNodesPass()(model).modified
        return ir.passes.PassResult(model, modified=bool(self.stored) or removed)

    def _store_weight(self, graph: ir.Graph, product: ir.Node, weight: ir.Value, stored: ReplacedWeight) -> None:
        assert weight.shape is not None and weight.name is not None
        rows, columns = weight.shape
        assert isinstance(rows, int) and isinstance(columns, int)
        assert weight.dtype is not None
        storage = stored.storage
        block, rounded = storage.block, storage.inputs is not None
        scale_type = ir.DataType.FLOAT if rounded else weight.dtype
        values_type = _type(storage.weights)
        values = want(graph, quantized_name(weight.name), values_type, (rows, columns), Wanted(stored, "values"))
        shape = (rows // block, columns) if block else (columns,)
        scale = want(graph, scale_name(weight.name), scale_type, shape, Wanted(stored, "scale"))
        attributes = {"axis": 0, "block_size": block} if block else {"axis": 1}
        tape = ir.tape.Tape()
        exact = tape.op("DequantizeLinear", [values, scale], attributes)
        product.replace_input_with(1, self._in_compute_type(tape, exact) if rounded else exact)
        graph.insert_before(product, tape.nodes)

    def _prepare_input(
        self, graph: ir.Graph, product: ir.Node, weight: ir.Value, stored: ReplacedWeight, smoothed: bool
    ) -> None:
        exact = origin(product.inputs[0])
        assert exact is not None
        tape = ir.tape.Tape()
        if exact.dtype != ir.DataType.FLOAT:
            exact = tape.op("Cast", [exact], {"to": ir.DataType.FLOAT})
        if smoothed:
            exact = smooth(graph, tape, exact, weight, stored)
        if stored.storage.inputs is not None:
            name = input_scale_name(str(weight.name))
            scale = want(graph, name, ir.DataType.FLOAT, (), Wanted(stored, "input_scale"))
            rounded = tape.op("QuantizeLinear", [exact, scale], {"output_dtype": _type(stored.storage.inputs)})
            exact = tape.op("DequantizeLinear", [rounded, scale])
        product.replace_input_with(0, self._in_compute_type(tape, exact))
        graph.insert_before(product, tape.nodes)

    def _in_compute_type(self, tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
        compute = self.compute_type
        return value if compute == ir.DataType.FLOAT else tape.op("Cast", [value], {"to": compute})


def _type(name: str) -> ir.DataType:
    return ir.DataType(DTYPES[name].onnx)
