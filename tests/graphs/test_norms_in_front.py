"""A finished graph of EXAONE 3: its norms stand in front, and moving or dropping one is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from exaone_export.errors import GraphContradictionError
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.graphs.hybrid_attention import portable_body
from exaone_export.graphs.verify import verify
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from tests.families import family_model, needs_exaone3

pytestmark = needs_exaone3


@pytest.fixture
def model(shared: Callable[..., Path]) -> Path:
    return family_model(shared, "exaone")


@pytest.fixture
def graph(model: Path, export_artifact: Callable[..., Path]) -> ir.Model:
    return ir.load(export_artifact(model, "ort-cpu", 400, "float32") / "model.onnx")


def refused(graph: ir.Model, model: Path) -> str:
    spec = Checkpoint.open(model).spec
    with pytest.raises(GraphContradictionError) as caught:
        verify(graph, spec, CacheLayout.plan(spec.layers, 400, 0), Recipe.plan(spec, "float32", "float32"))
    return str(caught.value)


def norm_of(graph: ir.Model, name: str) -> ir.Node:
    (norm,) = graph.graph.initializers[name].consumers()
    return norm


def test_a_dropped_norm(graph: ir.Model, model: Path) -> None:
    norm = norm_of(graph, "body.layers.1.mlp_norm.weight")
    for user in list(norm.outputs[0].consumers()):
        user.replace_input_with(0, norm.inputs[0])
    assert refused(graph, model) == "layer 1 of the graph has norms input and none, and the model has input."


def test_a_norm_of_what_is_summed(graph: ir.Model, model: Path) -> None:
    """The residual sum takes the normalized stream in place of the stream."""
    norm = norm_of(graph, "body.layers.1.attention_norm.weight")
    total = next(user for user in norm.inputs[0].consumers() if user.op_type == "Add")
    total.replace_input_with(list(total.inputs).index(norm.inputs[0]), norm.outputs[0])
    assert "layer 1 of the graph has norms elsewhere" in refused(graph, model)


def test_another_epsilon(graph: ir.Model, model: Path) -> None:
    norm = norm_of(graph, "body.layers.0.mlp_norm.weight")
    norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)
    assert "layer 0 of the graph has epsilon 0.001" in refused(graph, model)


def test_the_portable_body_has_the_norms_that_the_nodes_have() -> None:
    counts = {
        qk: [node.op_type for node in portable_body(qk_norm=qk)].count("RMSNormalization") for qk in (True, False)
    }
    assert counts == {True: 2, False: 0}
