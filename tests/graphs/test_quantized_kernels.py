"""Products in ONNX Runtime's quantized operators: what becomes of a graph, and what the operators compute."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exaone_export.calibration.number_formats import FORMATS, REDUCED_INT8
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.errors import ConfigError, GraphContradictionError
from exaone_export.exporter import export as pipeline
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.quantize.stored_weights import CHANNELS, NBITS, ROWS, pack_nibbles
from exaone_export.graphs import dynamic_int8
from exaone_export.graphs.constants import CONTRIB_DOMAIN
from exaone_export.graphs.hybrid_attention import DOMAIN
from exaone_export.graphs.passes.quantized_kernels import LowerToQuantizedKernels
from exaone_export.graphs.pipelines import lower
from exaone_export.graphs.verify import verify
from exaone_export.model.config.reading import read_spec
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target
from tests.conftest import TINY

CPU = get_target("ort-cpu")
SPEC = Checkpoint.open(TINY).spec
LAYOUT = CacheLayout.plan(SPEC.layers, 128, CPU.cache_slack)
PRECISIONS = ("int8", "int4", "int8-weights")


@pytest.fixture(scope="module")
def traced() -> ir.Model:
    return pipeline.trace(SPEC, LAYOUT, torch.float32)


def run(nodes: list[ir.Node], output: ir.Value, x: np.ndarray, constants: dict[str, np.ndarray]) -> np.ndarray:
    """One node, and the function where it calls it, on ONNX Runtime."""
    values = {value.name: value for node in nodes for value in node.inputs if value is not None}
    for name, array in constants.items():
        values[name].const_value = ir.tensor(array, name=name)
    graph = ir.Graph(
        [values["x"]],
        [output],
        nodes=nodes,
        initializers=[values[name] for name in constants],
        opset_imports={"": 24, DOMAIN: 1, CONTRIB_DOMAIN: 1},
    )
    function = dynamic_int8.function()
    model = ir.Model(graph, ir_version=11, functions=[function])
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {"x": x})[0]


def value(name: str, array: np.ndarray) -> ir.Value:
    shape = [None] * (array.ndim - 1) + [array.shape[-1]] if name == "x" else array.shape
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(shape))


def call(operator: str, x: np.ndarray, constants: dict[str, np.ndarray], domain: str, **attributes: int) -> np.ndarray:
    tape = ir.tape.Tape()
    inputs = [value(name, array) for name, array in ({"x": x} | constants).items()]
    order = [1, 0, 2] if operator == "GatherBlockQuantized" else range(len(inputs))
    output = tape.op(operator, [inputs[i] for i in order], attributes, domain=domain)
    output.type = ir.TensorType(ir.DataType.FLOAT)
    return run(list(tape.nodes), output, x, constants)


@pytest.mark.parametrize("inputs", [16, 80, 512])
def test_dynamic_int8_is_the_product_of_the_rounded_sides(inputs: int) -> None:
    generator = torch.Generator().manual_seed(inputs)
    weight = round_weight(torch.randn(24, inputs, generator=generator), REDUCED_INT8, search=False)
    x = torch.randn(2, 3, inputs, generator=generator)
    x[0, 1] = 0  # a vector without any magnitude
    x[1, 2] *= 1e4
    x[1, 0, 0] = 300  # an outlier takes its own vector's resolution, and no other's
    constants = {"w": CHANNELS["int8"].values(weight.values, 0).T.contiguous().numpy(), "s": weight.scale.numpy()}
    found = call(dynamic_int8.NAME, x.numpy(), constants, DOMAIN)
    step = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    wanted = ((x / step).round() * step) @ weight.dequantize().T
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    alone = call(dynamic_int8.NAME, x[1:, 1:2].contiguous().numpy(), constants, DOMAIN)
    np.testing.assert_array_equal(alone[0, 0], found[1, 1])


def test_the_widest_values_do_not_overflow() -> None:
    """Pairs of products are added in 16 bits on processors without dot products of bytes."""
    for sign in (1, -1):
        weight = np.full((64, 8), -64 if sign < 0 else 63, np.int8)
        found = call(
            dynamic_int8.NAME, np.ones((1, 1, 64), np.float32), {"w": weight, "s": np.ones(8, np.float32)}, DOMAIN
        )
        np.testing.assert_allclose(found[0, 0], weight.astype(np.float32).sum(0), rtol=1e-6)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize(("weights", "block", "inputs"), [("int4", 16, 48), ("int4", 128, 256), ("int8", 32, 96)])
def test_blocks_are_read_as_they_are_stored(weights: str, block: int, inputs: int, zero_points: bool) -> None:
    if zero_points and weights == "int8":
        pytest.skip("weights of eight bits have none")
    generator = torch.Generator().manual_seed(inputs)
    stored = round_weight(
        torch.randn(24, inputs, generator=generator), FORMATS[weights], block=block, asymmetric=zero_points
    )
    x = torch.randn(1, 3, inputs, generator=generator)
    constants = {"w": NBITS[weights].values(stored.values, block).numpy(), "s": stored.scale.numpy()}
    if stored.zero_point is not None:
        constants["z"] = pack_nibbles(stored.zero_point).numpy()
    bits = int(weights.removeprefix("int"))
    found = call("MatMulNBits", x.numpy(), constants, CONTRIB_DOMAIN, K=inputs, N=24, bits=bits, block_size=block)
    torch.testing.assert_close(torch.from_numpy(found), x @ stored.dequantize().T, rtol=1e-4, atol=1e-4)


def test_rows_are_looked_up_as_they_are_stored() -> None:
    table = round_weight(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)), FORMATS["int8"], block=32)
    constants = {"w": ROWS["int8"].values(table.values, 32).numpy(), "s": table.scale.numpy()}
    ids = np.array([[3, 9, 0]])
    found = call(
        "GatherBlockQuantized", ids, constants, CONTRIB_DOMAIN, gather_axis=0, quantize_axis=1, block_size=32, bits=8
    )
    torch.testing.assert_close(torch.from_numpy(found), table.dequantize()[ids])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_product_is_left_in_floating_point(precision: str, traced: ir.Model) -> None:
    recipe = Recipe.plan(SPEC, precision, "float32", kernels=True)
    graph = lower(traced.clone(), CPU, LAYOUT, SPEC, recipe)
    counts = Counter(node.op_type for node in graph.graph)
    products = 4 * SPEC.num_hidden_layers + 1
    assert counts["DynamicInt8MatMul" if precision == "int8" else "MatMulNBits"] == products
    assert counts["GatherBlockQuantized"] == 1
    assert not counts.keys() & {"MatMul", "Gemm", "Gather", "Transpose"}
    assert not any(name.endswith(("embedding", "proj.weight")) for name in graph.graph.initializers)
    types = {initializer.dtype for name, initializer in graph.graph.initializers.items() if ".quantized" in name}
    assert types == ({ir.DataType.INT8, ir.DataType.UINT8} if precision == "int8" else {ir.DataType.UINT8})
    readings = verify(graph, SPEC, LAYOUT, recipe)
    assert {kind for reading in readings for kind in reading.inputs.values()} == {"int8"}


def test_layers_that_are_kept_have_their_own_precision(traced: ir.Model) -> None:
    recipe = replace(Recipe.plan(SPEC, "int4", "float32", kernels=True), kept={1: "int8"})
    graph = lower(traced.clone(), CPU, LAYOUT, SPEC, recipe)
    stored = [set(reading.precision.values()) for reading in verify(graph, SPEC, LAYOUT, recipe)]
    assert stored == [{"int8"} if i == 1 else {"int4"} for i in range(SPEC.num_hidden_layers)]
    with pytest.raises(GraphContradictionError, match="layer 1 of the graph has qkv weights of int8"):
        verify(graph, SPEC, LAYOUT, Recipe.plan(SPEC, "int4", "float32", kernels=True))


def test_inputs_that_are_not_rounded_are_seen(traced: ir.Model) -> None:
    recipe = Recipe.plan(SPEC, "int4", "float32", kernels=True)
    graph = lower(traced.clone(), CPU, LAYOUT, SPEC, recipe)
    products = [node for node in graph.graph if node.op_type == "MatMulNBits"]
    products[5].attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    with pytest.raises(GraphContradictionError, match="output inputs of None, and the model has int8"):
        verify(graph, SPEC, LAYOUT, recipe)
    products[5].attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 4)
    products[-1].attributes["bits"] = ir.AttrInt64("bits", 8)
    with pytest.raises(GraphContradictionError, match="vocabulary matrix is int8, and its recipe says int4"):
        verify(graph, SPEC, LAYOUT, recipe)


def test_a_recipe_that_quantizes_nothing_changes_nothing(traced: ir.Model) -> None:
    recipe = Recipe.plan(SPEC, "float32", "float32", kernels=True)
    assert not recipe.kernels
    assert not LowerToQuantizedKernels(SPEC, recipe)(traced.clone()).modified


def test_sizes_without_a_block_are_refused() -> None:
    config = SPEC.to_config() | {"hidden_size": 136, "head_dim": 16}
    with pytest.raises(ConfigError, match="136 inputs, and int8 needs a multiple of 16"):
        Recipe.plan(read_spec(config), "int8", "float32", kernels=True)


@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_the_cuda_graph_leaves_inputs_as_they_are(precision: str) -> None:
    target = get_target("ort-cuda")
    layout = CacheLayout.plan(SPEC.layers, 128, target.cache_slack)
    recipe = Recipe.plan(SPEC, precision, "float16", kernels=True)
    graph = lower(pipeline.trace(SPEC, layout, torch.float16), target, layout, SPEC, recipe)
    readings = verify(graph, SPEC, layout, recipe)
    assert {kind for reading in readings for kind in reading.inputs.values()} == {None}
    scales = {initializer.dtype for name, initializer in graph.graph.initializers.items() if name.endswith(".scale")}
    assert scales == {ir.DataType.FLOAT16}
