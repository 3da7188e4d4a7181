"""The table of weights, against the reference model and against the rest of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import exaone_export.model
from exaone_export.exporter.reference.model import Reference
from exaone_export.model.config.reading import read_spec
from exaone_export.model.heads import ARCHITECTURES
from exaone_export.model.published import PUBLISHED
from exaone_export.model.tensors import (
    HEAD,
    PROJECTIONS,
    expected_tensors,
    input_sizes,
    layer_products,
    num_parameters,
    projection_sources,
    vocabulary_weight,
    weight_name,
    weight_table,
)
from exaone_export.targets.cache_layout import CacheLayout

ROOT = Path(exaone_export.model.__file__).parents[2]


@pytest.mark.parametrize(
    ("shape", "head"),
    [
        *((shape, "causal-lm") for shape in PUBLISHED),
        *(("1.2b", kind) for kind in ARCHITECTURES if kind != "causal-lm"),
    ],
)
def test_the_table_lists_the_weights_of_the_reference_model_with_their_shapes(shape: str, head: str) -> None:
    spec = PUBLISHED[shape]
    spec = read_spec(spec.to_config() | {"architectures": [spec.family.architecture(head)], "num_labels": 7})
    with torch.device("meta"):
        model = Reference(spec, CacheLayout.plan(spec.layers, 16, 0))
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    found = {}
    for name, weight in weight_table(spec).items():
        shapes = [source.shape for source in (weight.each[0] if weight.experts else weight).sources]
        stacked = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        found[name] = stacked[::-1] if weight.transposed else stacked
        if weight.experts:
            found[name] = (weight.experts, *found[name])
    assert found == wanted


def test_sizes_of_the_32b_are_those_that_its_config_gives() -> None:
    spec = PUBLISHED["32b"]
    assert input_sizes(spec) == {"qkv": 5120, "output": 5120, "gate_up": 5120, "down": 27_392}
    outputs = {name: projection.outputs(spec) for name, projection in PROJECTIONS.items()}
    assert outputs == {"qkv": 7168, "output": 5120, "gate_up": 54_784, "down": 5120}
    assert weight_name(3, "gate_up") == "body.layers.3.mlp.gate_up.weight"
    assert num_parameters(spec) == 32_003_216_384
    assert len(projection_sources(spec)) == 64 * 7


def test_a_tied_head_is_the_embedding() -> None:
    tied, untied = PUBLISHED["1.2b"], PUBLISHED["32b"]
    assert HEAD in weight_table(untied) and vocabulary_weight(untied) == HEAD
    assert HEAD not in weight_table(tied) and vocabulary_weight(tied) == "body.embedding"
    assert "lm_head.weight" not in expected_tensors(tied)


def test_a_projection_that_another_stands_before_takes_the_last_of_its_outputs() -> None:
    for spec in PUBLISHED.values():
        for layer in (0, spec.num_hidden_layers - 1):
            products = layer_products(spec, layer)
            assert products["down"].inputs(spec) == list(products["gate_up"].sources.values())[-1](spec)
        assert all(products[name].inputs(spec) % size == 0 for name, size in input_sizes(spec).items())
    assert [name for name, projection in PROJECTIONS.items() if projection.behind] == ["output", "down"]


def test_no_other_file_states_what_the_table_states() -> None:
    names = re.compile(
        r'"[^"\n]*(\b[qkvo]_proj|\b(gate|up|down)_proj|\battention\.qkv|\bmlp\.gate_up|post_attention_layernorm)\b'
    )
    rooms = ("calibration", "cli", "exaone_export", "exporter", "graphs", "runtime")
    stating = {
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in (ROOT / room).rglob("*.py")
        if any(names.search(line) for line in path.read_text().splitlines())
    }
    assert stating == {f"exaone_export/model/{name}.py" for name in ("tensors", "expert_tensors", "stored_names")}
