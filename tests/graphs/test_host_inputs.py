"""What a CUDA kernel reads on the host is computed there; an exported `ort-cuda` graph is held to it without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from exaone_export.errors import GraphContradictionError
from exaone_export.graphs.host_inputs import HOST_INPUTS, check_host_inputs
from exaone_export.graphs.verify import verify
from exaone_export.targets.provider import CUDA_PROVIDER
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import TARGETS, get_target
from tests.graphs.test_group_query_attention_cuda import LAYOUT, SPEC, lowered

INT64 = ir.TensorType(ir.DataType.INT64)


def graph_input(name: str) -> ir.Value:
    return ir.Value(name=name, type=INT64, shape=ir.Shape(["rows", "columns"]))


def model_of(inputs: list[ir.Value], tape: ir.tape.Tape, output: ir.Value) -> ir.Model:
    graph = ir.Graph(inputs, [output], nodes=tape.nodes, opset_imports={"": 24}, name="graph")
    return ir.Model(graph, ir_version=11)


@pytest.mark.parametrize("precision", get_target("ort-cuda").precisions)
def test_an_exported_graph_reads_shapes_and_constants_on_the_host(
    precision: str, random_hybrid: Path, export_artifact: Callable[..., Path]
) -> None:
    model = ir.load(export_artifact(random_hybrid, "ort-cuda", 256, precision) / "model.onnx")
    check_host_inputs(model)
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    (total,) = {node.inputs[6] for node in nodes}
    cast = total.producer()
    squeeze = cast.inputs[0].producer()
    shape = squeeze.inputs[0].producer()
    assert (cast.op_type, squeeze.op_type, shape.op_type) == ("Cast", "Squeeze", "Shape")
    assert shape.inputs[0].name == "attention_mask"
    assert (shape.attributes["start"].as_int(), shape.attributes["end"].as_int()) == (1, 2)


def test_a_longest_length_from_the_lengths_is_refused() -> None:
    """The graph of the first release, which stopped or gave garbage on a GPU."""
    model = lowered(torch.float16)
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    lengths, tape = nodes[0].inputs[5], ir.tape.Tape()
    longest = tape.op("ReduceMax", [lengths], {"keepdims": 0})
    longest.name = "longest"
    model.graph.insert_before(nodes[0], tape.nodes)
    for node in nodes:
        node.replace_input_with(6, longest)
    recipe = Recipe.plan(SPEC, "float16", "float16")
    verify(model, SPEC, LAYOUT, recipe)  # on a CPU there is one memory
    with pytest.raises(GraphContradictionError, match="reads 'longest' on the host, and the graph computes it on the"):
        verify(model, SPEC, LAYOUT, recipe, provider=CUDA_PROVIDER)


def test_a_shape_of_numbers_from_a_graph_input_is_refused() -> None:
    data, shape, tape = graph_input("data"), graph_input("shape"), ir.tape.Tape()
    model = model_of([data, shape], tape, tape.op("Reshape", [data, tape.op("Squeeze", [shape])]))
    with pytest.raises(GraphContradictionError, match="Reshape"):
        check_host_inputs(model)


def test_a_shape_of_shapes_and_constants_passes() -> None:
    data, tape = graph_input("data"), ir.tape.Tape()
    rows = tape.op("Shape", [data], {"start": 0, "end": 1})
    wanted = tape.op("Concat", [rows, tape.op("Constant", [], {"value_ints": [-1]})], {"axis": 0})
    check_host_inputs(model_of([data], tape, tape.op("Reshape", [data, wanted])))


@pytest.mark.parametrize("operator", sorted(HOST_INPUTS), ids=lambda operator: operator[1])
def test_every_input_of_the_table_is_held(operator: tuple[str, str]) -> None:
    domain, name = operator
    for index in HOST_INPUTS[operator]:
        data, tape = graph_input("data"), ir.tape.Tape()
        computed = tape.op("Add", [data, data])
        inputs = [None] * index + [computed]
        model = model_of([data], tape, tape.op(name, inputs, domain=domain))
        with pytest.raises(GraphContradictionError, match=name):
            check_host_inputs(model)


def test_one_target_runs_on_cuda() -> None:
    assert [target.name for target in TARGETS.values() if target.provider == CUDA_PROVIDER] == ["ort-cuda"]
