"""A graph with its attention function inlined: read as its model, refused when changed, right on OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exaone_export.errors import GraphContradictionError, TargetError
from exaone_export.exporter.plan.export_plan import plan_export
from exaone_export.graphs.verify import verify
from exaone_export.model.config.reading import read_spec
from exaone_export.targets.cache_layout import CacheLayout
from exaone_export.targets.recipe import Recipe
from tests.conftest import HYBRID, TINY, SaveModel

Exporter = Callable[..., Path]
SPEC = read_spec(HYBRID | {"model_type": "exaone4"})
LAYOUT = CacheLayout.plan(SPEC.layers, 256, 0)


@pytest.fixture
def graph(random_hybrid: Path, export_artifact: Exporter) -> ir.Model:
    return ir.load(export_artifact(random_hybrid, "onnx", inline=True) / "model.onnx")


def refused(graph: ir.Model) -> str:
    with pytest.raises(GraphContradictionError) as caught:
        verify(graph, SPEC, LAYOUT, Recipe.plan(SPEC, "float32", "float32"))
    return str(caught.value)


def attention(graph: ir.Model, layer: int) -> ir.Node:
    return [node for node in graph.graph if node.op_type == "Attention"][layer]


def test_it_has_standard_operators_alone_and_is_read_as_its_model(graph: ir.Model) -> None:
    assert not graph.functions
    assert dict(graph.graph.opset_imports) == {"": 24}
    readings = verify(graph, SPEC, LAYOUT, Recipe.plan(SPEC, "float32", "float32"))
    assert [reading.attention.window for reading in readings] == [8, 8, 8, 0]
    assert [reading.attention.rotary for reading in readings] == [True, True, True, False]
    assert [reading.attention.evicts for reading in readings] == [True, True, True, False]
    assert [str(reading.output.name) for reading in readings] == [f"layers.{i}.output" for i in range(4)]


def test_a_mask_of_another_kind_of_layer_is_refused(graph: ir.Model) -> None:
    attention(graph, 3).replace_input_with(3, attention(graph, 0).inputs[3])
    assert refused(graph) == "layer 3 of the graph has window 8, and the model has 0."


def test_a_rotated_nope_layer_is_refused(graph: ir.Model) -> None:
    rotated, plain = (attention(graph, layer).inputs[0].producer() for layer in (0, 3))
    while rotated.op_type != "RotaryEmbedding":
        rotated, plain = rotated.inputs[0].producer(), plain.inputs[0].producer()
    for table in (1, 2):
        plain.replace_input_with(table, rotated.inputs[table])
    assert "rotates queries or keys and not both" in refused(graph)


def test_other_targets_are_refused() -> None:
    with pytest.raises(TargetError) as caught:
        plan_export(TINY, target="ort-cpu", inline=True)
    assert str(caught.value) == (
        "a graph of target ort-cpu carries no function to inline; leave --inline out, or pass --target onnx."
    )


IRREGULAR = (
    {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"] * 2},
    {
        "sliding_window": 1,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "num_attention_heads": 6,
        "head_dim": 8,
    },
)


@pytest.mark.parametrize("changes", [None, *IRREGULAR], ids=["tiny", "window 5", "window 1"])
def test_openvino_gives_the_logits_of_pytorch(
    changes: dict | None, save_model: SaveModel, export_artifact: Exporter
) -> None:
    """A prefill in chunks and then single tokens, past three windows, through plain inputs and outputs."""
    import torch
    import transformers

    openvino = pytest.importorskip("openvino")
    model = TINY if changes is None else save_model(**changes)
    compiled = openvino.Core().compile_model(
        export_artifact(model, "onnx", inline=True) / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    reference = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    ids = np.random.default_rng(0).integers(3, reference.config.vocab_size, 120)
    caches = {
        value.any_name: np.zeros([1, *(size.get_length() for size in list(value.partial_shape)[1:])], np.float32)
        for value in compiled.inputs
        if value.any_name.startswith("past_key_values.")
    }
    found, held = [], 0
    for width in (47, 53, *[1] * 20):
        step = ids[held : held + width]
        held += width
        outputs = compiled(
            caches
            | {
                "input_ids": step[None],
                "position_ids": np.arange(held - width, held)[None],
                "attention_mask": np.array([[held]]),
                "logits_to_keep": np.array([0]),
            }
        ).to_dict()
        named = {key.any_name: value for key, value in outputs.items()}
        caches = {name: named[name.replace("past_key_values.", "present.")].copy() for name in caches}
        found.append(named["logits"][0, -1].copy())
    with torch.no_grad():
        wanted = reference(torch.tensor(ids)[None]).logits[0].numpy()[[46, *range(99, 120)]]
    assert np.abs(np.stack(found) - wanted).max() < 1e-4 * wanted.std()
