"""The products of a recipe as ONNX Runtime's quantized operators: layers, embedding and vocabulary projection."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from exaone_export.model.dtypes import DTYPES
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import EMBEDDING, HEAD, vocabulary_weight
from exaone_export.targets.precision import Storage
from exaone_export.targets.recipe import Recipe

from .. import dynamic_int8
from ..constants import CONTRIB_DOMAIN
from ..hybrid_attention import DOMAIN
from ..wanted import ReplacedWeight, Wanted, want
from .quantize_products import (
    ensure_replaced,
    quantized_name,
    replaced_weights,
    require_products,
    scale_name,
    smooth,
)

# com.microsoft::MatMulNBits, accuracy_level: the type that its inputs are rounded to (docs/ContribOperators.md).
_ACCURACY = {"int8": 4, None: 0}


def zero_point_name(weight: str) -> str:
    """The zero points of a stored weight."""
    return f"{weight}.zero_point"


class LowerToQuantizedKernels(ir.passes.InPlacePass):
    """Run products in ONNX Runtime's operators for quantized weights.

    1. A weight in blocks becomes ``MatMulNBits``: values ``[out, in / block, block * bits / 8]``, scales
       ``[out, in / block]``, zero points packed ``[out, ...]`` where the recipe has them.
    2. A weight with one scale a channel becomes ``exaone::DynamicInt8MatMul``, whose body the model carries.
    3. The embedding becomes ``GatherBlockQuantized`` and the vocabulary projection a product like the others. A tied
       matrix is stored twice: the runtime repacks the one for its kernel and looks rows up in the other, which stays on
       disk but for those rows.
    4. Where the recipe smooths a product's input, a multiplication by a factor a channel stands before it.

    Left alone: the attention, the norms, other heads than a vocabulary projection, layers in the compute type, and a
    recipe that quantizes nothing.

    Requires: each layer's weight to be stored is read by one ``MatMul``, and logits are made by one. Ensures: none of
    them, nor the vocabulary's, is left in full precision.

    Args:
        spec: The architecture.
        recipe: What to store.
    """

    def __init__(self, spec: ModelSpec, recipe: Recipe) -> None:
        super().__init__()
        self.spec, self.recipe = spec, recipe
        self.stored = replaced_weights(spec, recipe) if recipe.kernels else []

    def requires(self, model: ir.Model) -> None:
        """Check that one MatMul reads each weight."""
        require_products(model, self.stored)
        head = model.graph.outputs[0].producer()
        if self.recipe.head is not None and (head is None or head.op_type != "MatMul"):
            raise ir.passes.PreconditionError("the graph's first output is not made by a MatMul")

    def ensures(self, model: ir.Model) -> None:
        """Check that no weight is left in full precision."""
        vocabulary = [
            ReplacedWeight(name, None, name, storage)
            for name, storage in ((EMBEDDING, self.recipe.embedding), (HEAD, self.recipe.head))
            if storage is not None
        ]
        ensure_replaced(model, self.stored + vocabulary)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower in place."""
        graph, recipe = model.graph, self.recipe
        if recipe.embedding is None:
            return ir.passes.PassResult(model, modified=False)
        # The head first: where it is tied, the embedding's matrix has two users until then.
        if recipe.head is not None:
            head = graph.outputs[0].producer()
            assert head is not None
            shape = (self.spec.hidden_size, self.spec.vocab_size)
            _lower(graph, head, HEAD, shape, ReplacedWeight(vocabulary_weight(self.spec), None, "head", recipe.head))
            graph.initializers.pop(HEAD, None)
        for stored in self.stored:
            weight = graph.initializers[stored.source]
            (product,) = weight.consumers()
            assert weight.shape is not None
            if stored.product in recipe.smoothed:
                tape, given = ir.tape.Tape(), product.inputs[0]
                assert given is not None
                product.replace_input_with(0, smooth(graph, tape, given, weight, stored))
                graph.insert_before(product, tape.nodes)
            _lower(graph, product, stored.source, weight.shape.numpy(), stored)
            del graph.initializers[stored.source]
        RemoveUnusedNodesPass()(model)  # the transposition of a tied matrix
        self._look_up(graph, recipe.embedding)
        function = dynamic_int8.function()
        if any(dynamic_int8.is_dynamic_int8(node) for node in graph):
            model.functions[function.identifier()] = function
            model.opset_imports[DOMAIN] = 1
        model.opset_imports[CONTRIB_DOMAIN] = 1
        return ir.passes.PassResult(model, modified=True)

    def _look_up(self, graph: ir.Graph, storage: Storage) -> None:
        table = graph.initializers[EMBEDDING]
        (lookup,) = table.consumers()
        assert lookup.op_type == "Gather" and table.dtype is not None
        rows, columns = self.spec.vocab_size, self.spec.hidden_size
        stored = ReplacedWeight(EMBEDDING, None, "embedding", storage)
        values = want(graph, quantized_name(EMBEDDING), ir.DataType.UINT8, (rows, columns), Wanted(stored, "values"))
        blocks = (rows, columns // storage.block)
        scale = want(graph, scale_name(EMBEDDING), table.dtype, blocks, Wanted(stored, "scale"))
        tape = ir.tape.Tape()
        attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": storage.block, "bits": 8}
        inputs = [values, lookup.inputs[1], scale]
        output = tape.op("GatherBlockQuantized", inputs, attributes, domain=CONTRIB_DOMAIN)
        ir.convenience.replace_nodes_and_values(graph, lookup, [lookup], tape.nodes, lookup.outputs, [output])
        graph.initializers.pop(EMBEDDING, None)


def _lower(graph: ir.Graph, product: ir.Node, name: str, shape: tuple[int, ...], stored: ReplacedWeight) -> None:
    inputs, outputs = shape
    given, storage = product.inputs[0], stored.storage
    assert given is not None and given.dtype is not None
    tape = ir.tape.Tape()
    of_values, of_scale, of_zeros = (Wanted(stored, field) for field in ("values", "scale", "zero_point"))
    if not storage.block:
        values = want(graph, quantized_name(name), ir.DataType.INT8, (inputs, outputs), of_values)
        scale = want(graph, scale_name(name), ir.DataType.FLOAT, (outputs,), of_scale)
        output = tape.op(dynamic_int8.NAME, [given, values, scale], domain=DOMAIN)
    else:
        bits, blocks = DTYPES[storage.weights].bits, inputs // storage.block
        packed = (outputs, blocks, storage.block * bits // 8)
        operands = [
            given,
            want(graph, quantized_name(name), ir.DataType.UINT8, packed, of_values),
            want(graph, scale_name(name), given.dtype, (outputs, blocks), of_scale),
        ]
        if storage.zero_points:
            zeros = (outputs, (blocks * bits + 7) // 8)
            operands.append(want(graph, zero_point_name(name), ir.DataType.UINT8, zeros, of_zeros))
        attributes = {
            "K": inputs,
            "N": outputs,
            "bits": bits,
            "block_size": storage.block,
            "accuracy_level": _ACCURACY[storage.inputs],
        }
        output = tape.op("MatMulNBits", operands, attributes, domain=CONTRIB_DOMAIN)
    ir.convenience.replace_nodes_and_values(graph, product, [product], tape.nodes, product.outputs, [output])
