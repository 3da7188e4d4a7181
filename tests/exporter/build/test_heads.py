"""An engine of every head: TensorRT-RTX builds it, and what it gives has the head's names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.exporter.build.engine import build_engine, parse_and_check
from exaone_export.exporter.build.layer_report import LAYERS_NAME
from exaone_export.exporter.build.plan import plan_build
from exaone_export.model.heads import ARCHITECTURES
from tests.conftest import SaveModel

# The layers are built elsewhere, in every form; these heads are traced with a layer of each kind for other tests too.
TWO_LAYERS = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
HEADS = [kind for kind in ARCHITECTURES if kind != "causal-lm"]


@pytest.mark.parametrize("kind", HEADS)
def test_an_engine_gives_what_the_head_gives(
    kind: str, save_model: SaveModel, export_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    more = {"hidden_states": True} if kind == "hidden-states" else {}
    source = export_artifact(save_model(head=kind, num_labels=3, **TWO_LAYERS), "tensorrt-rtx", **more)
    spec = Artifact.open(source).spec
    network = parse_and_check(plan_build(source)).network
    outputs = {network.get_output(i).name: network.get_output(i) for i in range(network.num_outputs)}
    given = {name: tensor for name, tensor in outputs.items() if not name.startswith("present.")}
    assert list(given) == list(spec.output_shapes)
    assert {name: tuple(tensor.shape)[2:] for name, tensor in given.items()} == spec.output_shapes
    assert {tensor.dtype.name for tensor in given.values()} == {"FLOAT"}

    build_engine(source, tmp_path / "out", max_batch=2)
    assert Artifact.open(tmp_path / "out").spec == spec
    report = json.loads((tmp_path / "out" / LAYERS_NAME).read_text())
    named = {tensor["name"] for layer in report["layers"] for tensor in layer.get("outputs", ())}
    assert spec.output_shapes.keys() <= named
