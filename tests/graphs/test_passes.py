"""What each pass does to a graph, and what it leaves alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from exaone_export.graphs.hybrid_attention import DOMAIN, INPUTS, NAME
from exaone_export.graphs.passes.carry_body import CarryBody
from exaone_export.graphs.passes.group_query_attention import LowerToGroupQueryAttention
from exaone_export.graphs.passes.name_layers import NameLayers
from exaone_export.graphs.passes.repeat_layers import RepeatLayers
from exaone_export.graphs.passes.tensor_scatter import LowerToTensorScatter
from exaone_export.graphs.passes.tidy import Tidy
from exaone_export.graphs.passes.tied_head import TiedHead
from exaone_export.targets.cache_layout import CacheLayout, LayerCache
from tests.conftest import HYBRID, SaveModel


def counts(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in ir.load(path / "model.onnx").graph)


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
def test_a_layer_is_five_products_two_norms_and_one_attention(
    target: str, random_hybrid: Path, export_artifact: Callable[..., Path]
) -> None:
    found = counts(export_artifact(random_hybrid, target))
    attention = {"onnx": "HybridAttention", "ort-cpu": "GroupQueryAttention"}[target]
    assert found["MatMul"] == 4 * 4 + 1
    assert found[attention] == 4
    # The CPU kernel takes no norm weights, so there queries and keys are normalized by nodes of their own.
    assert found["RMSNormalization"] == 2 * 4 + 1 + (2 * 4 if target == "ort-cpu" else 0)
    assert found["Transpose"] == 0
    assert found["SplitToSequence"] == 0


def test_the_portable_graph_is_valid_onnx(random_hybrid: Path, export_artifact: Callable[..., Path]) -> None:
    path = export_artifact(random_hybrid, "onnx") / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
def test_a_graph_says_nothing_of_the_machine_that_made_it(
    target: str, random_hybrid: Path, export_artifact: Callable[..., Path]
) -> None:
    data = (export_artifact(random_hybrid, target) / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in data
    assert b"site-packages" not in data


def test_tied_words_are_stored_once(save_model: SaveModel, export_artifact: Callable[..., Path]) -> None:
    tied = export_artifact(save_model(tie_word_embeddings=True), "ort-cpu")
    assert counts(tied)["Gemm"] == 1
    assert counts(tied)["Transpose"] == 0
    untied = export_artifact(save_model(), "ort-cpu")
    difference = (untied / "model.onnx.data").stat().st_size - (tied / "model.onnx.data").stat().st_size
    assert difference >= HYBRID["vocab_size"] * HYBRID["hidden_size"] * 4


def test_tied_head_leaves_other_transposes_alone() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 2, 3]))
    y = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([4, 3]))
    transpose = ir.node("Transpose", [y], {"perm": [1, 0]})
    product = ir.node("MatMul", [x, transpose.outputs[0]])
    graph = ir.Graph([x, y], product.outputs, nodes=[transpose, product], opset_imports={"": 24})
    result = TiedHead()(ir.Model(graph, ir_version=11))
    assert not result.modified
    assert [node.op_type for node in result.model.graph] == ["Transpose", "MatMul"]


def of_one_node(operator: str, inputs: int = 1, domain: str = "") -> ir.Model:
    values = [ir.Value(name=f"x{i}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1])) for i in range(inputs)]
    node = ir.node(operator, values, domain=domain)
    return ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 24}), ir_version=11)


def test_lowering_leaves_a_graph_without_attention_alone() -> None:
    layout = CacheLayout(8, (LayerCache(8, 0),))
    for lowering in (LowerToGroupQueryAttention(64), LowerToTensorScatter(layout), CarryBody(), NameLayers()):
        model = of_one_node("Neg")
        assert not lowering(model).modified
        assert [node.op_type for node in model.graph] == ["Neg"]
        assert not model.functions


def test_the_body_is_carried_once_and_where_it_is_called() -> None:
    model = of_one_node(NAME, len(INPUTS), DOMAIN)
    assert CarryBody()(model).modified
    assert [name for _, name, _ in model.functions] == [NAME]
    assert not CarryBody()(model).modified


def test_a_pass_refuses_a_graph_that_it_is_not_for() -> None:
    with pytest.raises(ir.passes.PreconditionError, match="the graph has no layer 0"):
        RepeatLayers([0])(of_one_node("Neg"))
    layout = CacheLayout(8, (LayerCache(8, 0), LayerCache(8, 0)))
    with pytest.raises(ir.passes.PreconditionError, match="1 attention nodes for 2 layers"):
        LowerToTensorScatter(layout)(of_one_node(NAME, len(INPUTS), DOMAIN))


def test_tidy_never_reads_a_weight() -> None:
    """A fold of a weight would read it from the checkpoint, and a graph of 32 billion would be read for nothing."""

    def read() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    weight = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([2, 2]), name="w")
    value = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=weight.shape, const_value=weight)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 2]))
    nodes = [ir.node("Transpose", [value], {"perm": [1, 0]}), ir.node("Constant", [], {"value_ints": [1]})]
    nodes.append(ir.node("MatMul", [x, nodes[0].outputs[0]]))
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=[value], opset_imports={"": 24})
    result = Tidy()(ir.Model(graph, ir_version=11))
    assert [node.op_type for node in result.model.graph] == ["Transpose", "MatMul"]


def test_the_body_travels_in_the_model_and_runs_without_this_package(
    random_hybrid: Path, export_artifact: Callable[..., Path]
) -> None:
    """A plain ONNX Runtime session, no custom operator registered."""
    path = export_artifact(random_hybrid, "onnx") / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": np.array([[5, 6, 7]]),
        "attention_mask": np.ones((1, 3), np.int64),
        "position_ids": np.arange(3)[None],
        "logits_to_keep": np.array([0]),
    }
    for value in session.get_inputs()[4:]:
        feed[value.name] = np.zeros((1, *value.shape[1:]), np.float32)
    assert session.run(["logits"], feed)[0].shape == (1, 1, HYBRID["vocab_size"])
