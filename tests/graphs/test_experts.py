"""Sparse layers of finished graphs: read as they are, and every wrong one refused by its fact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from exaone_export.errors import GraphContradictionError
from exaone_export.exporter.reference.experts import route
from exaone_export.graphs.verify import verify
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target
from tests.sparse_models import save_sparse, sparse_spec

OPERATORS = {"onnx": "If", "ort-cpu": "MoE", "tensorrt-rtx": "MatMul"}
SPEC = sparse_spec()


@pytest.fixture(params=list(OPERATORS))
def target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def graph(target: str, shared: Callable[..., Path], export_artifact: Callable[..., Path]) -> ir.Model:
    return ir.load(export_artifact(save_sparse(shared), target, 256, "float32") / "model.onnx")


def read(graph: ir.Model, target: str) -> list[object]:
    place = get_target(target)
    layout = CacheLayout.plan(SPEC.layers, 256, place.cache_slack, 16 if place.cache_headroom else 0)
    readings = verify(graph, SPEC, layout, Recipe.plan(SPEC, "float32", "float32"))
    return [reading.experts for reading in readings]


def refused(graph: ir.Model, target: str) -> str:
    with pytest.raises(GraphContradictionError) as caught:
        read(graph, target)
    return str(caught.value)


def routers(graph: ir.Model) -> list[ir.Node]:
    return [node for node in graph.graph if node.op_type == "MatMul" and "router" in str(node.inputs[1].name)]


def behind(value: ir.Value, op_type: str) -> ir.Node:
    return next(node for node in value.consumers() if node.op_type == op_type)


def test_a_finished_graph_is_read_as_its_model(graph: ir.Model, target: str) -> None:
    dense, *sparse = read(graph, target)
    assert dense is None
    for found in sparse:
        assert found.to_dict() == {
            "operator": OPERATORS[target],
            "experts": 8,
            "chosen": 3,
            "groups": [4, 2],
            "normalized": True,
            "scale": 2.5,
            "precision": "float32",
        }


def test_another_number_of_chosen_experts_is_refused(graph: ir.Model, target: str) -> None:
    scores = behind(routers(graph)[1].outputs[0], "Sigmoid").outputs[0]
    top = behind(scores, "GatherElements").inputs[1].producer()
    top.replace_input_with(1, ir.val("two", const_value=ir.tensor([2])))
    assert refused(graph, target) == "layer 2 of the graph has chosen experts 2, and the model has 3."


def test_a_choice_without_the_bias_is_refused(graph: ir.Model, target: str) -> None:
    added = behind(behind(routers(graph)[0].outputs[0], "Sigmoid").outputs[0], "Add")
    added.outputs[0].replace_all_uses_with(added.inputs[0])
    assert "layer 1 of the graph" in refused(graph, target)


def test_another_scale_is_refused(graph: ir.Model, target: str) -> None:
    changed = 0
    for node in graph.graph:
        for value in node.inputs:
            tensor = ir.convenience.get_const_tensor(value) if value is not None else None
            if (
                tensor is not None
                and tensor.dtype == ir.DataType.FLOAT
                and tensor.numpy().reshape(-1).tolist() == [2.5]
            ):
                node.replace_input_with(list(node.inputs).index(value), ir.val("w", const_value=ir.tensor([2.0])))
                changed += 1
    assert changed == 2
    assert refused(graph, target) == "layer 1 of the graph scales its experts by 2.0, and the model by 2.5."


def test_a_layer_without_its_experts_is_refused(graph: ir.Model, target: str) -> None:
    experts = read(graph, target)[1].output
    total = behind(experts, "Add")
    total.outputs[0].replace_all_uses_with(next(value for value in total.inputs if value is not experts))
    assert "layer 1 of the graph" in refused(graph, target)


def test_the_router_chooses_what_transformers_does() -> None:
    from transformers import ExaoneMoeConfig
    from transformers.models.exaone_moe.modeling_exaone_moe import ExaoneMoeTopkRouter

    generator = torch.Generator().manual_seed(0)
    router = ExaoneMoeTopkRouter(ExaoneMoeConfig(**SPEC.to_config()))
    with torch.no_grad():
        router.weight.copy_(torch.randn(8, 32, generator=generator))
        router.e_score_correction_bias.copy_(torch.randn(8, generator=generator))
    tokens = torch.randn(50, 32, generator=generator)
    _, weights, indices = router(tokens)
    found, own = route(tokens, router.weight.T, router.e_score_correction_bias, 3, 4, 2, True, 2.5)
    assert np.array_equal(np.sort(found, 1), np.sort(indices, 1))
    torch.testing.assert_close(own.sort(1).values, weights.sort(1).values.detach())


def test_a_description_tells_dense_layers_from_sparse_ones(
    shared: Callable[..., Path], export_artifact: Callable[..., Path]
) -> None:
    from click.testing import CliRunner

    from exaone_export.cli.main import cli

    answer = CliRunner().invoke(cli, ["inspect", str(export_artifact(save_sparse(shared), "ort-cpu", 256, "float32"))])
    lines = [line for line in answer.output.splitlines() if line.startswith("layer")]
    assert [line.split()[1] for line in lines] == ["0", "1", "2"]
    assert ["3 of 8 experts in float32" in line for line in lines] == [False, True, True]
