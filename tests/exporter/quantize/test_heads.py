"""Quantized forms of other heads: the layers are as a causal model's, and the head stays in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers

from exaone_export.artifact.reader import Artifact
from exaone_export.graphs.verify import read_layers
from exaone_export.model.heads import ARCHITECTURES
from tests.conftest import SaveModel
from tests.exporter.quantized import constant_scales

Exporter = Callable[..., Path]


def head_weights(artifact: Path) -> dict[str, torch.Tensor]:
    """The stored weight and bias of the head, float32 both."""
    graph = ir.load(artifact / "model.onnx").graph
    found = {name: value for name, value in graph.initializers.items() if name.startswith("head.")}
    assert {value.dtype for value in found.values()} <= {ir.DataType.FLOAT}
    return {name: torch.from_numpy(value.const_value.numpy().copy()) for name, value in found.items()}


def last_position(artifact: Path, ids: torch.Tensor) -> list[np.ndarray]:
    """What the graph gives behind the last token, the head's own outputs first."""
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    inputs: dict[str, Any] = {
        "input_ids": ids[None].numpy(),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids))[None],
        "logits_to_keep": np.zeros(1, np.int64),
    }
    for value in session.get_inputs():
        if value.name not in inputs:
            inputs[value.name] = np.zeros((1, *value.shape[1:]), np.float32)
    names = [value.name for value in session.get_outputs() if not value.name.startswith("present.")]
    return [output[0, 0] for output in session.run(names, inputs)]


@pytest.mark.parametrize(
    ("precision", "kind", "stored"),
    [
        ("int4", "token-classification", "int4"),
        ("int4", "sequence-classification", "int4"),
        ("int8-weights", "question-answering", "int8"),
        ("int8", "hidden-states", "int8"),
    ],
)
def test_the_cpu_runs_quantized_layers_under_a_float_head(
    precision: str, kind: str, stored: str, save_model: SaveModel, export_artifact: Exporter
) -> None:
    folder = save_model(head=kind, num_labels=3)
    more = {"hidden_states": True} if kind == "hidden-states" else {}
    artifact = export_artifact(folder, "ort-cpu", precision=precision, **more)
    layers = read_layers(ir.load(artifact / "model.onnx"))
    assert {name for reading in layers for name in reading.precision.values()} == {stored}
    recipe = Artifact.open(artifact).manifest.recipe
    assert (recipe["head"], recipe["quantizes_head"]) == ("float32", False)
    model = getattr(transformers, ARCHITECTURES[kind]).from_pretrained(folder).eval()
    if kind != "hidden-states":
        head = getattr(model, Artifact.open(artifact).spec.head.module)
        found = head_weights(artifact)
        assert torch.equal(found.pop("head.weight"), head.weight.T)
        assert head.bias is None or torch.equal(found.pop("head.bias"), head.bias)
        assert not found

    ids = torch.arange(5, 40)
    with torch.no_grad():
        body = model if kind == "hidden-states" else model.base_model
        states = body(ids[None], output_hidden_states=True)
    wanted = states.last_hidden_state[0, -1]
    if kind == "hidden-states":
        found_states = last_position(artifact, ids)
        # Rounding adds up from layer to layer; the embedding is stored in eight bits.
        for number, theirs in enumerate([wanted, *(layer[0, -1] for layer in states.hidden_states[:-1])]):
            cosine = torch.cosine_similarity(torch.from_numpy(found_states[number]), theirs.detach(), dim=0)
            assert cosine > (0.999 if number == 1 else 0.95)


@pytest.mark.parametrize("precision", ["int8", "fp8", "int4"])
def test_a_graph_of_tensorrt_has_quantized_layers_under_a_float_head(
    precision: str, save_model: SaveModel, export_artifact: Exporter, tmp_path: Path
) -> None:
    # This graph is also traced to build an engine.
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    folder = save_model(head="token-classification", num_labels=3, **layers)
    scales = {} if precision == "int4" else {"calibration": constant_scales(folder, tmp_path / "scales")}
    artifact = export_artifact(folder, "tensorrt-rtx", precision=precision, **scales)
    readings = read_layers(ir.load(artifact / "model.onnx"))
    stored = {"fp8": "float8_e4m3fn"}.get(precision, precision)
    assert {name for reading in readings for name in reading.precision.values()} == {stored}
    assert head_weights(artifact).keys() == {"head.weight", "head.bias"}
