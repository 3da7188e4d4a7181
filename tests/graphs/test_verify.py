"""The reader of finished graphs: right graphs are read as they are, and every wrong one is refused by its fact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from exaone_export.errors import GraphContradictionError
from exaone_export.graphs.topology import is_norm, only_user, origin
from exaone_export.graphs.verify import read_layers, verify
from exaone_export.model.config.reading import read_spec
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target
from tests.conftest import HYBRID

SPEC = read_spec(HYBRID | {"model_type": "exaone4"})
ATTENTION = {"onnx": "HybridAttention", "ort-cpu": "GroupQueryAttention", "tensorrt-rtx": "Attention"}

Exporter = Callable[..., Path]


@pytest.fixture(params=list(ATTENTION))
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def graph(target: str, random_hybrid: Path, export_artifact: Callable[..., Path]) -> ir.Model:
    return ir.load(export_artifact(random_hybrid, target) / "model.onnx")


def layout(target: str) -> CacheLayout:
    return CacheLayout.plan(
        SPEC.layers, 256, get_target(target).cache_slack, 16 if get_target(target).cache_headroom else 0
    )


def recipe(target: str) -> Recipe:
    precision = get_target(target).precisions[0]
    return Recipe.plan(SPEC, precision, precision)


def attention(graph: ir.Model, target: str, layer: int) -> ir.Node:
    return [node for node in graph.graph if node.op_type == ATTENTION[target]][layer]


def refused(graph: ir.Model, target: str) -> str:
    with pytest.raises(GraphContradictionError) as caught:
        verify(graph, SPEC, layout(target), recipe(target))
    return str(caught.value)


def test_a_finished_graph_is_read_as_its_model(graph: ir.Model, target: str) -> None:
    readings = verify(graph, SPEC, layout(target), recipe(target))
    assert [reading.attention.rotary for reading in readings] == [True, True, True, False]
    assert [reading.attention.window for reading in readings] == [8, 8, 8, 0]
    assert all(reading.attention.qk_norm and reading.norms == "output" for reading in readings)
    precision = get_target(target).precisions[0]
    assert {value for reading in readings for value in reading.precision.values()} == {precision}
    assert [str(reading.output.name) for reading in readings] == [f"layers.{i}.output" for i in range(4)]


def test_weights_in_another_format_than_the_recipe_are_refused(graph: ir.Model, target: str) -> None:
    compute_type = get_target(target).precisions[0]
    quantized = Recipe.plan(SPEC, "int8-weights", compute_type)
    with pytest.raises(GraphContradictionError) as caught:
        verify(graph, SPEC, layout(target), quantized)
    assert str(caught.value) == f"layer 0 of the graph has qkv weights of {compute_type}, and the model has int8."


def test_a_rotated_nope_layer_is_refused(graph: ir.Model, target: str) -> None:
    """Trap 2."""
    node = attention(graph, target, 3)
    if target == "tensorrt-rtx":
        rotated = attention(graph, target, 0).inputs[0].producer().inputs[0].producer()
        assert rotated.op_type == "RotaryEmbedding"
        _rotate_before(node.inputs[0].producer(), rotated)
        _rotate_before(scatter(node, 1).inputs[1].producer(), rotated)
    else:
        node.attributes[{"onnx": "rotary", "ort-cpu": "do_rotary"}[target]] = ir.AttrInt64("x", 1)
    assert refused(graph, target) == "layer 3 of the graph has rotary True, and the model has False."


def test_queries_rotated_without_their_keys_are_refused(random_hybrid: Path, export_artifact: Exporter) -> None:
    graph = ir.load(export_artifact(random_hybrid, "tensorrt-rtx") / "model.onnx")
    rotated = attention(graph, "tensorrt-rtx", 0).inputs[0].producer().inputs[0].producer()
    _rotate_before(attention(graph, "tensorrt-rtx", 3).inputs[0].producer(), rotated)
    assert "rotates queries or keys and not both" in refused(graph, "tensorrt-rtx")


def test_a_wrong_window_is_refused(graph: ir.Model, target: str) -> None:
    if target == "tensorrt-rtx":
        # All layers of a kind share one mask.
        newer = attention(graph, target, 0).inputs[3].producer().inputs[1].producer()
        assert newer.op_type == "Greater"
        nine = ir.node("Constant", [], {"value_int": 9})
        newer.inputs[1].producer().replace_input_with(1, nine.outputs[0])
        graph.graph.insert_before(newer.inputs[1].producer(), nine)
        assert refused(graph, target) == "layer 0 of the graph has window 9, and the model has 8."
        return
    name = {"onnx": "window", "ort-cpu": "local_window_size"}[target]
    attention(graph, target, 1).attributes[name] = ir.AttrInt64(name, 9)
    assert refused(graph, target) == "layer 1 of the graph has window 9, and the model has 8."


def test_a_window_on_a_global_layer_is_refused(graph: ir.Model, target: str) -> None:
    """Trap 4."""
    if target == "tensorrt-rtx":
        attention(graph, target, 3).replace_input_with(3, attention(graph, target, 0).inputs[3])
        assert refused(graph, target) == "layer 3 of the graph has window 8, and the model has 0."
        return
    name = {"onnx": "window", "ort-cpu": "local_window_size"}[target]
    attention(graph, target, 3).attributes[name] = ir.AttrInt64(name, 8)
    assert refused(graph, target) == "layer 3 of the graph has window 8, and the model has 0."


def test_a_wrong_scale_is_refused(graph: ir.Model, target: str) -> None:
    attention(graph, target, 0).attributes["scale"] = ir.AttrFloat32("scale", 0.2)
    assert "layer 0 of the graph has scale 0.2" in refused(graph, target)


def test_a_norm_before_the_projection_is_refused(graph: ir.Model, target: str) -> None:
    """The order of nearly every other model: norm on the input, none on the output."""
    reading = read_layers(graph)[1]
    projection = next(
        node for node in graph.graph if node.op_type == "MatMul" and _weight(node).endswith("1.mlp.gate_up.weight")
    )
    down = next(
        node for node in graph.graph if node.op_type == "MatMul" and _weight(node).endswith("1.mlp.down.weight")
    )
    norm, total = norm_behind(down), reading.output.producer()
    assert total is not None
    before = ir.node("RMSNormalization", [origin(projection.inputs[0]), norm.inputs[1]], {"axis": -1, "epsilon": 1e-5})
    graph.graph.insert_before(projection, before)
    projection.replace_input_with(0, before.outputs[0])
    total.replace_input_with(list(total.inputs).index(norm.outputs[0]), norm.inputs[0])
    assert "layer 1 of the graph has" in refused(graph, target)


def test_a_dropped_norm_is_refused(graph: ir.Model, target: str) -> None:
    output = next(
        node for node in graph.graph if node.op_type == "MatMul" and _weight(node).endswith("2.attention.output.weight")
    )
    norm = norm_behind(output)
    for user in list(norm.outputs[0].consumers()):
        user.replace_input_with(list(user.inputs).index(norm.outputs[0]), norm.inputs[0])
    assert refused(graph, target) == "layer 2 of the graph has norms none and output, and the model has output."


def test_a_dropped_qk_norm_is_refused(random_hybrid: Path, export_artifact: Callable[..., Path]) -> None:
    graph = ir.load(export_artifact(random_hybrid, "ort-cpu") / "model.onnx")
    node = attention(graph, "ort-cpu", 0)
    reshape = node.inputs[0].producer()
    norm = reshape.inputs[0].producer()
    assert norm.op_type == "RMSNormalization"
    reshape.replace_input_with(0, norm.inputs[0])
    assert (
        refused(graph, "ort-cpu") == f"attention node {node.name!r} has 1 norms of queries and keys, not one of each."
    )


def test_a_cache_that_does_not_evict_is_refused(random_hybrid: Path, export_artifact: Callable[..., Path]) -> None:
    graph = ir.load(export_artifact(random_hybrid, "ort-cpu") / "model.onnx")
    attention(graph, "ort-cpu", 0).attributes["sliding_window_cache"] = ir.AttrInt64("sliding_window_cache", 0)
    assert refused(graph, "ort-cpu") == "layer 0 of the graph has evicts False, and the model has True."


def test_a_missing_layer_is_refused(graph: ir.Model, target: str) -> None:
    spec = read_spec(
        HYBRID
        | {
            "model_type": "exaone4",
            "num_hidden_layers": 5,
            "layer_types": ["full_attention"] * 5,
            "sliding_window": None,
        }
    )
    with pytest.raises(GraphContradictionError, match=r"attention in layers .* and the model has 5 layers"):
        verify(graph, spec, CacheLayout.plan(spec.layers, 256, 0), recipe(target))


def test_tied_words_where_they_are_not_are_refused(graph: ir.Model, target: str) -> None:
    spec = read_spec(HYBRID | {"model_type": "exaone4", "tie_word_embeddings": True})
    with pytest.raises(GraphContradictionError, match="embeddings are untied, and the model's are tied"):
        verify(graph, spec, layout(target), recipe(target))


def test_a_missing_final_norm_is_refused(graph: ir.Model, target: str) -> None:
    head = next(node for node in graph.graph if node.op_type == "MatMul" and _weight(node) == "head.weight")
    head.replace_input_with(0, origin(head.inputs[0]).producer().inputs[0])
    assert refused(graph, target) == "the graph has no final norm between the last layer and the vocabulary matrix."


def test_a_graph_that_never_evicts_is_refused(random_hybrid: Path, export_artifact: Exporter) -> None:
    graph = ir.load(export_artifact(random_hybrid, "tensorrt-rtx") / "model.onnx")
    node, last = (attention(graph, "tensorrt-rtx", layer) for layer in (0, 3))
    for which in (1, 2):
        scatter(node, which).replace_input_with(2, scatter(last, which).inputs[2])
    assert refused(graph, "tensorrt-rtx") == "layer 0 of the graph has evicts False, and the model has True."


def test_attention_over_what_the_step_did_not_write_is_refused(random_hybrid: Path, export_artifact: Exporter) -> None:
    graph = ir.load(export_artifact(random_hybrid, "tensorrt-rtx") / "model.onnx")
    node = attention(graph, "tensorrt-rtx", 2)
    node.inputs[2].producer().replace_input_with(0, scatter(node, 2).inputs[0])
    assert "does not attend to a cache that the step updates" in refused(graph, "tensorrt-rtx")


def norm_behind(product: ir.Node) -> ir.Node:
    norm = only_user(product.outputs[0], is_norm)
    assert norm is not None
    return norm


def scatter(node: ir.Node, which: int) -> ir.Node:
    """What writes the keys (1) or values (2) that a standard attention node looks at."""
    found = node.inputs[which].producer().inputs[0].producer()
    assert found.op_type == "TensorScatter"
    return found


def _rotate_before(cast: ir.Node, like: ir.Node) -> None:
    """Rotate what is cast to half precision, as another layer's queries are."""
    assert cast.op_type == "Cast"
    rotation = ir.node("RotaryEmbedding", [cast.inputs[0], *like.inputs[1:]])
    cast.graph.insert_before(cast, rotation)
    cast.replace_input_with(0, rotation.outputs[0])


def _weight(node: ir.Node) -> str:
    return str(node.inputs[1].name)
