"""Copies of one traced layer a kind are what tracing every layer gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx_ir as ir
import pytest
import torch

from exaone_export.exporter import export as pipeline
from exaone_export.exporter.reference.tracing import trace, trace_whole
from exaone_export.graphs.passes.repeat_layers import RepeatLayers, kinds_of
from exaone_export.model.config.reading import read_spec
from exaone_export.model.spec import ModelSpec
from exaone_export.targets.cache_layout import CacheLayout
from tests.conftest import HYBRID
from tests.sparse_models import SPARSE

S, F = "sliding_attention", "full_attention"


def spelled(model: ir.Model) -> list[Any]:
    """A graph without the names that the tracer made up: values are numbered as they are made."""
    kept = {value: str(value.name) for value in [*model.graph.inputs, *model.graph.initializers.values()]}
    constants: dict[ir.Value, Any] = {}
    lines: list[Any] = [
        [said(value) for value in model.graph.inputs],
        [str(value.name) for value in model.graph.outputs],
        sorted((str(value.name), *said(value)) for value in model.graph.initializers.values()),
    ]
    for node in model.graph:
        if node.op_type == "Constant":  # written where it is first needed, which may be in a layer
            constants[node.outputs[0]] = [(name, valued(attribute)) for name, attribute in node.attributes.items()]
            continue
        inputs = [kept.get(value, constants.get(value)) if value is not None else None for value in node.inputs]
        assert all(found is not None for found, value in zip(inputs, node.inputs, strict=True) if value is not None)
        for value in node.outputs:
            kept[value] = f"#{len(kept)}" if value not in model.graph.outputs else str(value.name)
        made = [(kept[value], *said(value)) for value in node.outputs]
        attributes = sorted((name, repr(attribute.value)) for name, attribute in node.attributes.items())
        lines.append((node.domain, node.op_type, inputs, made, attributes))
    return lines


def repeated(spec: ModelSpec, layout: CacheLayout, dtype: torch.dtype) -> ir.Model:
    """Of the trace that tests share, which is made in float16, so that it is held to one of its own in other types."""
    result = RepeatLayers(kinds_of(spec, layout))(pipeline.trace(spec, layout, dtype))
    assert result.modified
    return result.model


def valued(attribute: ir.Attr) -> Any:
    """A constant, whatever kind of tensor holds it."""
    is_tensor = attribute.type == ir.AttributeType.TENSOR
    return (attribute.value.dtype, attribute.value.numpy().tolist()) if is_tensor else attribute.value


def said(value: ir.Value) -> tuple[str, str]:
    return str(value.type), str(value.shape)


def test_copies_are_what_tracing_every_layer_gives() -> None:
    config = {**HYBRID, "num_hidden_layers": 3, "layer_types": [S, F, S], "tie_word_embeddings": True}
    spec = read_spec({"model_type": "exaone4", **config})
    layout = CacheLayout.plan(spec.layers, max_length=64, slack=3)
    dtype = torch.bfloat16
    assert spelled(repeated(spec, layout, dtype)) == spelled(trace_whole(spec, layout, dtype))


def test_layers_of_one_window_and_unlike_caches_are_two_kinds() -> None:
    spec = read_spec({"model_type": "exaone4", **HYBRID, "num_hidden_layers": 3, "layer_types": [S, S, S]})
    planned = CacheLayout.plan(spec.layers, max_length=64, slack=3)
    layers = (replace(planned.layers[0], capacity=planned.layers[0].capacity + 1), *planned.layers[1:])
    layout = replace(planned, layers=layers)
    assert kinds_of(spec, layout) == (0, 1, 1)
    dtype = torch.float32
    assert spelled(repeated(spec, layout, dtype)) == spelled(trace_whole(spec, layout, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        SPARSE | {"num_hidden_layers": 1, "mlp_layer_types": ["sparse"], "layer_types": [S]},
        HYBRID
        | {"num_hidden_layers": 2, "layer_types": [S, F]}
        | {"model_type": "exaone4", "architectures": ["Exaone4ForTokenClassification"]},
    ],
    ids=["experts", "token-classification"],
)
def test_a_shared_trace_in_another_type_is_what_a_trace_of_its_own_would_be(
    changes: dict[str, Any], dtype: torch.dtype
) -> None:
    """Tests share one in float16 and rename the type: a cast to another type than the model's would not show."""
    spec = read_spec(changes)
    layout = CacheLayout.plan(spec.layers, max_length=64, slack=3)
    assert spelled(pipeline.trace(spec, layout, dtype)) == spelled(trace(spec, layout, dtype))


def test_a_copy_shares_no_type_with_the_traced_layer() -> None:
    spec = read_spec({"model_type": "exaone4", **HYBRID})
    layout = CacheLayout.plan(spec.layers, max_length=64, slack=3)
    graph = repeated(spec, layout, torch.float32).graph
    graph.inputs[4].dtype = ir.DataType.INT8
    assert [value.dtype for value in graph.inputs[5:]] == [ir.DataType.FLOAT] * (len(graph.inputs) - 5)


def test_the_wrong_order_is_seen() -> None:
    spec = read_spec({"model_type": "exaone4", **HYBRID, "num_hidden_layers": 2, "layer_types": [S, F]})
    layout = CacheLayout.plan(spec.layers, max_length=64, slack=3)
    traced = pipeline.trace(spec, layout, torch.float32)
    whole = spelled(traced)
    assert spelled(RepeatLayers([1, 0])(traced).model) != whole
