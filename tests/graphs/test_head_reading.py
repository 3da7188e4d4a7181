"""The head of a finished graph is read back: a right one as it is, and every wrong one refused by its fact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from exaone_export.errors import GraphContradictionError
from exaone_export.graphs.topology import is_norm, is_product, producer
from exaone_export.graphs.verify import verify
from exaone_export.model.config.head import choose_head
from exaone_export.model.config.reading import read_spec, read_spec_folder
from exaone_export.model.heads import CAUSAL_LM_HEAD
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from exaone_export.targets.target import get_target
from tests.conftest import HYBRID, SaveModel

Read = Callable[[str], tuple[ir.Model, ModelSpec]]


@pytest.fixture
def read(save_model: SaveModel, export_artifact: Callable[..., Path]) -> Read:
    """The graph of a head, and what it should be; of the bare model with the hidden states of its layers."""

    def of(kind: str) -> tuple[ir.Model, ModelSpec]:
        more = {"hidden_states": True} if kind == "hidden-states" else {}
        artifact = export_artifact(save_model(head=kind, num_labels=3), "ort-cpu", **more)
        return ir.load(artifact / "model.onnx"), read_spec_folder(artifact)

    return of


def check(model: ir.Model, spec: ModelSpec, recipe: Recipe | None = None) -> None:
    layout = CacheLayout.plan(spec.layers, 256, get_target("ort-cpu").cache_slack, 0)
    verify(model, spec, layout, recipe or Recipe.plan(spec, "float32", "float32"))


def refused(model: ir.Model, spec: ModelSpec, recipe: Recipe | None = None) -> str:
    with pytest.raises(GraphContradictionError) as caught:
        check(model, spec, recipe)
    return str(caught.value)


def give(model: ir.Model, output: int, value: ir.Value) -> None:
    """Make another value an output, under the name and the shape of what was there."""
    outputs = model.graph.outputs
    name, shape = outputs[output].name, outputs[output].shape
    outputs[output].name = f"instead_of_{name}"
    value.name, value.shape = name, shape
    outputs[output] = value


def product(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if is_product(node) and node.inputs[1].name == "head.weight")


def final_norm(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if is_norm(node) and node.inputs[1].name == "norm.weight")


@pytest.mark.parametrize(
    "kind", ["hidden-states", "sequence-classification", "token-classification", "question-answering"]
)
def test_a_head_is_read_as_its_models(kind: str, read: Read) -> None:
    model, spec = read(kind)
    assert spec.head.kind == kind
    check(model, spec)


@pytest.mark.parametrize(
    ("kind", "output"), [("sequence-classification", "logits"), ("question-answering", "start_logits")]
)
def test_a_missing_product_is_refused(kind: str, output: str, read: Read) -> None:
    model, spec = read(kind)
    head = product(model)
    ir.convenience.replace_all_uses_with(head.outputs[0], head.inputs[0], replace_graph_outputs=True)
    if kind == "sequence-classification":
        head.inputs[0].name, head.inputs[0].shape = "logits", None
    assert refused(model, spec) == f"the graph's {output} is not made by a product with the head's weight."


@pytest.mark.parametrize("kind", ["token-classification", "question-answering"])
def test_a_missing_bias_is_refused(kind: str, read: Read) -> None:
    model, spec = read(kind)
    added = product(model).outputs[0].consumers()[0]
    assert added.op_type == "Add"
    if kind == "token-classification":
        give(model, 0, product(model).outputs[0])
    else:
        ir.convenience.replace_all_uses_with(added.outputs[0], added.inputs[0])
    assert refused(model, spec) == "the graph's head has no bias, and the model's has one."


def test_a_bias_that_the_model_does_not_have_is_refused(read: Read) -> None:
    model, spec = read("token-classification")
    without = dataclasses.replace(spec, head=dataclasses.replace(spec.head, bias=False))
    assert refused(model, without) == "the graph's head has a bias, and the model's has none."


def test_swapped_ends_of_a_span_are_refused(read: Read) -> None:
    model, spec = read("question-answering")
    start, end = model.graph.outputs[:2]
    model.graph.outputs[:2] = [end, start]
    start.name, end.name = "end_logits", "start_logits"
    assert refused(model, spec) == "the graph's start_logits is not number 0 of the head's product."


def test_ends_taken_from_the_tokens_are_refused(read: Read) -> None:
    model, spec = read("question-answering")
    model.graph.outputs[1].producer().attributes["axis"] = ir.AttrInt64("axis", 1)
    assert refused(model, spec) == "the graph's end_logits is not number 1 of the head's product."


@pytest.mark.parametrize(("kind", "end"), [("hidden-states", "last_hidden_state"), ("token-classification", "logits")])
def test_another_layer_before_the_head_is_refused(kind: str, end: str, read: Read) -> None:
    model, spec = read(kind)
    gather = producer(final_norm(model).inputs[0])
    earlier = next(v for node in model.graph for v in node.outputs if v.name == "layers.2.output")
    gather.replace_input_with(0, earlier)
    assert refused(model, spec) == f"the graph has no final norm between the last layer and its {end}."


@pytest.mark.parametrize(("kind", "end"), [("hidden-states", "last_hidden_state"), ("token-classification", "logits")])
def test_a_missing_norm_is_refused(kind: str, end: str, read: Read) -> None:
    model, spec = read(kind)
    norm = final_norm(model)
    if kind == "hidden-states":
        give(model, 0, norm.inputs[0])
    else:
        product(model).replace_input_with(0, norm.inputs[0])
    assert refused(model, spec) == f"the graph has no final norm between the last layer and its {end}."


@pytest.mark.parametrize(("output", "source"), [(1, "layers.0.output"), (3, "layers.2.output")])
def test_a_hidden_state_of_another_layer_is_refused(output: int, source: str, read: Read) -> None:
    model, spec = read("hidden-states")
    gather = model.graph.outputs[output].producer()
    assert gather.op_type == "GatherElements"
    gather.replace_input_with(0, next(v for node in model.graph for v in node.outputs if v.name == source))
    assert refused(model, spec) == (f"the graph's hidden_states.{output - 1} is not what layer {output - 1} takes in.")


def test_a_hidden_state_of_other_positions_is_refused(read: Read) -> None:
    model, spec = read("hidden-states")
    gather = model.graph.outputs[2].producer()
    gather.replace_input_with(1, gather.inputs[1].producer().inputs[0])
    assert refused(model, spec) == "the graph's hidden_states.1 is of other positions than its last_hidden_state."


def test_missing_outputs_are_refused(read: Read) -> None:
    model, spec = read("hidden-states")
    del model.graph.outputs[4]
    given = "last_hidden_state, hidden_states.0, hidden_states.1, hidden_states.2"
    assert refused(model, spec) == f"the graph gives {given}, and the model's head gives {given}, hidden_states.3."


def test_a_head_in_another_type_than_the_recipe_says_is_refused(read: Read) -> None:
    model, spec = read("sequence-classification")
    model.graph.initializers["head.weight"].dtype = ir.DataType.FLOAT16
    assert refused(model, spec) == "the graph's head is float16, and its recipe says float32."


def test_a_head_of_another_size_is_refused(read: Read) -> None:
    model, spec = read("sequence-classification")
    more = read_spec(spec.to_config() | {"id2label": None, "num_labels": 4})
    assert refused(model, more) == "the graph's logits has the shape [3] for each token, and the model's has [4]."
    causal = dataclasses.replace(spec, head=CAUSAL_LM_HEAD)
    assert refused(model, causal) == "the graph's logits has the shape [3] for each token, and the model's has [97]."
    bare = read_spec(choose_head(HYBRID | {"model_type": "exaone4"}, "hidden-states"))
    assert refused(model, bare) == "the graph gives logits, and the model's head gives last_hidden_state."
