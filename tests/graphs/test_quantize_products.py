"""Explicit quantization: what stands before a product, what is left alone, the numbers, and the engine made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.graphs.passes.quantize_products import (
    QuantizeProducts,
    input_scale_name,
    quantized_name,
    scale_name,
)
from exaone_export.graphs.wanted import wanted
from exaone_export.model import tensors
from exaone_export.model.config.reading import read_spec
from exaone_export.model.tensors import PROJECTIONS, input_sizes
from exaone_export.targets.precision import FLOATS, PRECISIONS
from exaone_export.targets.recipe import Recipe
from tests.conftest import HYBRID

SPEC = read_spec(
    HYBRID
    | {"model_type": "exaone4", "hidden_size": 256, "intermediate_size": 320, "head_dim": 64}
    | {"num_hidden_layers": 1, "layer_types": ["full_attention"], "sliding_window": None}
)
OUTPUTS = {"qkv": 512, "output": 256, "gate_up": 640, "down": 256}
BLOCKS = {"qkv": 128, "output": 128, "gate_up": 128, "down": 64}
QUANTIZED = [name for name, precision in PRECISIONS.items() if precision.weights is not None]
TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
TYPES |= {"int8": ir.DataType.INT8, "int4": ir.DataType.INT4, "float8_e4m3fn": ir.DataType.FLOAT8E4M3FN}


def weight_name(part: str) -> str:
    return tensors.weight_name(0, part)


def products(compute_type: str) -> ir.Model:
    """A layer's four products side by side, and a vocabulary projection.

    As in a layer, ``qkv`` and ``gate_up`` take a float32 stream through a cast, the others the compute type.
    """
    compute, tape = TYPES[compute_type], ir.tape.Tape()
    inputs, outputs, weights = [], [], []
    for part in (*PROJECTIONS, "head"):
        size = input_sizes(SPEC).get(part, 256)
        kind = compute if part in ("output", "down") else TYPES["float32"]
        x = ir.Value(name=f"x_{part}", type=ir.TensorType(kind), shape=ir.Shape(["batch", size]))
        name = "head.weight" if part == "head" else weight_name(part)
        shape = ir.Shape([size, OUTPUTS.get(part, 97)])
        weight = ir.Value(name=name, type=ir.TensorType(compute), shape=shape)
        given = x if kind == compute else tape.op("Cast", [x], {"to": compute})
        given.type = ir.TensorType(compute)
        y = tape.op("Cast", [tape.op("MatMul", [given, weight])], {"to": TYPES["float32"]})
        y.name, y.type, y.shape = f"y_{part}", ir.TensorType(TYPES["float32"]), ir.Shape(["batch", shape[1]])
        inputs.append(x)
        weights.append(weight)
        outputs.append(y)
    graph = ir.Graph(inputs, outputs, nodes=tape.nodes, initializers=weights, opset_imports={"": 24}, name="products")
    return ir.Model(graph, ir_version=11)


def quantize(precision: str, compute_type: str) -> tuple[ir.Model, Recipe]:
    recipe = Recipe.plan(SPEC, precision, compute_type)
    result = QuantizeProducts(SPEC, recipe)(products(compute_type))
    assert result.modified
    return result.model, recipe


def product(model: ir.Model, part: str) -> ir.Node:
    """The product of ``y_{part}``."""
    (cast,) = (node for node in model.graph if node.outputs[0].name == f"y_{part}")
    made = cast.inputs[0].producer()
    assert made.op_type == "MatMul"
    return made


def chain(value: ir.Value) -> list[str]:
    """Operators from a product's operand back to the graph's input or initializer."""
    found = []
    while (node := value.producer()) is not None:
        found.append(node.op_type)
        value = node.inputs[0]
    return [*found, str(value.name)]


def bind(model: ir.Model, recipe: Recipe, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Give the initializers data.

    Returns:
        By part, what the stored weight stands for, ``[in, out]`` float32, and the scale of the input.
    """
    generator = torch.Generator().manual_seed(seed)
    stand_for, input_scales = {}, {}
    values = model.graph.initializers

    def put(name: str, array: np.ndarray) -> None:
        value = values[name]
        assert value.dtype is not None
        value.const_value = ir.Tensor(array.astype(value.dtype.numpy()), dtype=value.dtype, name=name)

    for part, size in input_sizes(SPEC).items():
        weight, block = torch.randn(OUTPUTS[part], size, generator=generator) * 0.05, recipe.blocks.get(part, 0)
        scale_value = values[scale_name(weight_name(part))]
        scale_dtype = getattr(torch, {value: name for name, value in TYPES.items()}[scale_value.dtype])
        found = round_weight(weight, FORMATS[recipe.weights], block=block, scale_dtype=scale_dtype, search=False)
        rounded, scale = found.values, found.scale
        put(quantized_name(weight_name(part)), rounded.float().numpy().T)
        put(str(scale_value.name), scale.float().numpy().T)
        spread = scale.float().repeat_interleave(block, 1) if block else scale.float()[:, None]
        stand_for[part] = (rounded.float() * spread).numpy().T
        if recipe.precision.activations is not None:
            input_scales[part] = 3.0 / FORMATS[recipe.precision.activations].largest
            put(input_scale_name(weight_name(part)), np.array(input_scales[part], np.float32))
    put("head.weight", np.zeros((256, 97), np.float32))
    return stand_for, input_scales


@pytest.mark.parametrize("compute_type", FLOATS)
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_inputs_are_rounded_from_the_value_before_its_cast(precision: str, compute_type: str) -> None:
    """The residual stream is float32; rounding it to float16 first would round it twice."""
    model, recipe = quantize(precision, compute_type)
    back = [] if compute_type == "float32" else ["Cast"]
    for part in PROJECTIONS:
        node = product(model, part)
        to_float = ["Cast"] if part in ("output", "down") and compute_type != "float32" else []
        assert chain(node.inputs[0]) == [*back, "DequantizeLinear", "QuantizeLinear", *to_float, f"x_{part}"]
        rounding = next(
            n for n in model.graph if n.op_type == "QuantizeLinear" and n.inputs[1].name == input_scale(part)
        )
        assert rounding.attributes["output_dtype"].as_int() == TYPES[str(recipe.precision.activations)]
        # Both operands' scales are float32: with float16 ones TensorRT sums unscaled integers in float16.
        assert {rounding.inputs[1].dtype, node_scale(model, part).dtype} == {TYPES["float32"]}


@pytest.mark.parametrize("compute_type", FLOATS)
@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_inputs_stay_where_only_weights_are_quantized(precision: str, compute_type: str) -> None:
    model, _ = quantize(precision, compute_type)
    for part in PROJECTIONS:
        cast = [] if part in ("output", "down") or compute_type == "float32" else ["Cast"]
        assert chain(product(model, part).inputs[0]) == [*cast, f"x_{part}"]
        assert node_scale(model, part).dtype == TYPES[compute_type]
    assert "QuantizeLinear" not in {node.op_type for node in model.graph}


@pytest.mark.parametrize("compute_type", FLOATS)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_a_weight_is_stored_with_its_scales_and_nothing_else_is_left_of_it(precision: str, compute_type: str) -> None:
    model, recipe = quantize(precision, compute_type)
    values = model.graph.initializers
    rounded = recipe.precision.activations is not None
    names = {weight_name(part) for part in PROJECTIONS}
    expected = {quantized_name(name) for name in names} | {scale_name(name) for name in names} | {"head.weight"}
    assert set(values) == expected | ({input_scale_name(name) for name in names} if rounded else set())
    for part, size in input_sizes(SPEC).items():
        stored = values[quantized_name(weight_name(part))]
        assert (stored.dtype, list(stored.shape)) == (TYPES[recipe.weights], [size, OUTPUTS[part]])
        (dequantize,) = stored.consumers()
        given = {name: attribute.as_int() for name, attribute in dequantize.attributes.items()}
        if precision == "int4":
            assert given == {"axis": 0, "block_size": BLOCKS[part]}
            assert list(node_scale(model, part).shape) == [size // BLOCKS[part], OUTPUTS[part]]
        else:
            assert given == {"axis": 1}
            assert list(node_scale(model, part).shape) == [OUTPUTS[part]]


@pytest.mark.parametrize("precision", QUANTIZED)
def test_every_added_initializer_says_what_it_is_to_hold(precision: str) -> None:
    model, recipe = quantize(precision, "float16")
    found = wanted(model)
    assert found.keys() == {name for name in model.graph.initializers if name != "head.weight"}
    fields = {"values", "scale"} | ({"input_scale"} if recipe.precision.activations else set())
    for projection in PROJECTIONS:
        mine = [content for content in found.values() if content.weight.product == projection]
        assert {content.field for content in mine} == fields
        assert {content.weight.source for content in mine} == {weight_name(projection)}
        assert {content.weight.storage for content in mine} == {recipe.product(0, projection)}
    assert wanted(model.clone()) == found


def test_a_weight_with_two_readers_is_refused() -> None:
    model = products("float32")
    weight = model.graph.initializers[weight_name("down")]
    model.graph.append(ir.node("Identity", [weight]))
    with pytest.raises(ir.passes.PreconditionError, match=r"mlp\.down\.weight is read by \['MatMul', 'Identity'\]"):
        QuantizeProducts(SPEC, Recipe.plan(SPEC, "int8", "float32"))(model)


def test_the_vocabulary_projection_is_left_alone() -> None:
    for precision in QUANTIZED:
        model, _ = quantize(precision, "float16")
        assert chain(product(model, "head").inputs[0]) == ["Cast", "x_head"]
        assert product(model, "head").inputs[1] is model.graph.initializers["head.weight"]


@pytest.mark.parametrize("precision", FLOATS)
def test_a_recipe_without_formats_changes_nothing(precision: str) -> None:
    model = products(precision)
    before = [(node.op_type, [str(value.name) for value in node.inputs]) for node in model.graph]
    assert not QuantizeProducts(SPEC, Recipe.plan(SPEC, precision, precision))(model).modified
    assert [(node.op_type, [str(value.name) for value in node.inputs]) for node in model.graph] == before


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("compute_type", ["float16", "float32"])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_products_are_those_of_the_rounded_numbers(precision: str, compute_type: str, level: str) -> None:
    """Against NumPy, with inputs beyond the range among them; ONNX Runtime's own fusions change nothing."""
    model, recipe = quantize(precision, compute_type)
    weights, scales = bind(model, recipe)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    # Left to itself, ONNX Runtime rounds the inputs of a product with dequantized weights to int8.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    data = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    random, feed = np.random.default_rng(0), {}
    for value in session.get_inputs():
        kind = np.float16 if value.type == "tensor(float16)" else np.float32
        feed[value.name] = (1.5 * random.standard_normal((8, value.shape[1]))).astype(kind)
    found = dict(
        zip(
            [f"y_{part}" for part in PROJECTIONS], session.run([f"y_{part}" for part in PROJECTIONS], feed), strict=True
        )
    )
    for part in PROJECTIONS:
        x = feed[f"x_{part}"].astype(np.float32)
        if recipe.precision.activations is not None:
            x = rounded(x, np.float32(scales[part]), recipe.precision.activations)
        wanted = x @ weights[part]
        tolerance = {"float16": 2e-3, "float32": 1e-6}[compute_type] * np.abs(wanted).max()
        np.testing.assert_allclose(found[f"y_{part}"], wanted, atol=tolerance, rtol=0)


def rounded(x: np.ndarray, scale: np.float32, number_format: str) -> np.ndarray:
    """``QuantizeLinear`` and ``DequantizeLinear`` in NumPy."""
    if number_format == "int8":
        return np.clip(np.rint(x / scale), -128, 127) * scale
    return np.clip(x / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale


@pytest.mark.parametrize("compute_type", ["float16", "bfloat16"])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_an_engine_multiplies_what_is_stored(precision: str, compute_type: str) -> None:
    """Nothing is dequantized into memory: the kernel of each product reads the stored weight."""
    model, recipe = quantize(precision, compute_type)
    bind(model, recipe)
    wanted = {"int8": "Int8", "float8_e4m3fn": "FP8", "int4": "Int4"}[recipe.weights]
    compute = {"float16": "Half", "bfloat16": "BFloat16"}[compute_type]
    kernels = [kernel for kernel in engine_kernels(model) if wanted in kernel["constants"]]
    assert len(kernels) == len(PROJECTIONS)
    if recipe.precision.activations is None:
        assert all(kernel["inputs"] == kernel["outputs"] == [compute] for kernel in kernels)
    else:
        # The sum of the integers is scaled in float32; float16 would not hold it.
        assert all((kernel["inputs"], kernel["outputs"]) == ([wanted], ["Float"]) for kernel in kernels)


def engine_kernels(model: ir.Model) -> Iterator[dict[str, list[str]]]:
    """Types of inputs, constants and outputs of every kernel, from what TensorRT-RTX's builder says of its engine."""
    trt = pytest.importorskip("tensorrt_rtx")
    said: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, _severity: object, message: str) -> None:
            said.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(ir.serde.serialize_model(model).SerializeToString()), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, *((batch, tensor.shape[1]) for batch in (1, 8, 64)))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None, said[-1]
    for found in _KERNEL.finditer("\n".join(said)):
        yield {name: re.findall(r"Datatype: (\w+)", text) for name, text in found.groupdict().items()}


_KERNEL = re.compile(
    r"^Name: .*, LayerType: .*, Inputs: \[(?P<inputs>.*)\], Constants: \[(?P<constants>.*)\], "
    r"Outputs: \[(?P<outputs>.*)\], TacticName",
    re.MULTILINE,
)


def input_scale(part: str) -> str:
    return input_scale_name(weight_name(part))


def node_scale(model: ir.Model, part: str) -> ir.Value:
    return model.graph.initializers[scale_name(weight_name(part))]
