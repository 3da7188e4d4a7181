"""A plan against what is there: the tensors that an export writes, and the buffers that a session fills."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.exporter import export as pipeline
from exaone_export.exporter.export import draft, plan_export
from exaone_export.exporter.plan.deployment import read_deployment
from exaone_export.exporter.reference.tracing import DTYPES
from exaone_export.graphs.pipelines import lower
from exaone_export.model.heads import ARCHITECTURES
from exaone_export.planning.deployment import Deployment
from exaone_export.planning.memory_plan import MemoryPlan
from exaone_export.planning.stored_tensors import ALIGNMENT, INLINE_BYTES, data_file_bytes
from exaone_export.runtime.core.buffers import CacheBuffers
from exaone_export.runtime.sessions.onnxruntime import OnnxRuntimeSession
from exaone_export.targets.target import TARGETS
from tests.conftest import SaveModel
from tests.exporter.quantized import random_scales

FORMS = [
    (target.name, precision)
    for target in TARGETS.values()
    for precision in target.precisions
    if target.name != "tensorrt"  # the graphs of TensorRT-RTX
]

HEADS = [kind for kind in ARCHITECTURES if kind != "causal-lm"]


def compare(deployment: Deployment) -> None:
    traced = pipeline.trace(deployment.spec, deployment.layout, DTYPES[deployment.recipe.compute_type])
    graph = lower(traced, deployment.target, deployment.layout, deployment.spec, deployment.recipe).graph
    # A few integers that say shapes are constants of every graph. What is packed has other types, and the same bytes.
    weights = [value for value in graph.initializers.values() if value.dtype != ir.DataType.INT64]
    stored = Counter(-(-value.dtype.bitwidth * math.prod(map(int, value.shape)) // 8) for value in weights)
    assert stored == Counter(tensor.num_bytes for tensor in deployment.tensors)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("target", "precision"), FORMS)
def test_every_stored_tensor_is_planned(target: str, precision: str, tied: bool, save_model: SaveModel) -> None:
    model = save_model(tie_word_embeddings=tied)
    compare(read_deployment(model, target=target, precision=precision, max_length=100))


@pytest.mark.parametrize(
    ("target", "precision", "kind"),
    [
        ("ort-cpu", "float32", "hidden-states"),
        ("ort-cpu", "int8", "sequence-classification"),
        ("ort-cpu", "int4", "token-classification"),
        ("ort-cpu", "int8-weights", "question-answering"),
        ("ort-cuda", "float16", "token-classification"),
        ("tensorrt-rtx", "int8", "token-classification"),
        ("tensorrt-rtx", "int4", "token-classification"),
    ],
)
def test_every_stored_tensor_of_another_head_is_planned(
    target: str, precision: str, kind: str, save_model: SaveModel
) -> None:
    model, inner = save_model(head=kind, num_labels=3), kind == "hidden-states"
    compare(read_deployment(model, target=target, precision=precision, max_length=100, hidden_states=inner))


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_other_than_the_vocabulary_is_planned_in_float32(kind: str, save_model: SaveModel) -> None:
    deployment = read_deployment(
        save_model(head=kind, num_labels=3), target="ort-cpu", precision="int4", max_length=100
    )
    stored = [(tensor.num_elements, tensor.dtype) for tensor in deployment.tensors if tensor.group == "head"]
    weight, bias = (3 * 32, "float32"), (3, "float32")
    assert (
        stored
        == {
            "hidden-states": [],
            "sequence-classification": [weight],
            "token-classification": [weight, bias],
            "question-answering": [(2 * 32, "float32"), (2, "float32")],
        }[kind]
    )


def test_what_calibration_decides_is_planned_too(save_model: SaveModel) -> None:
    deployment = read_deployment(save_model(), precision="int4", cache_precision="int8", max_length=100)
    compare(deployment)
    kept = dataclasses.replace(deployment.recipe, kept={1: "float", 2: "int8-weights"}, smoothed=("down",))
    compare(dataclasses.replace(deployment, recipe=kept))
    points = dataclasses.replace(deployment.recipe, zero_points=True, cache=None)
    compare(dataclasses.replace(deployment, recipe=points))
    explicit = read_deployment(save_model(), target="tensorrt-rtx", precision="int8", max_length=100)
    smoothed = dataclasses.replace(explicit.recipe, kept={0: "float"}, smoothed=("qkv", "down"))
    compare(dataclasses.replace(explicit, recipe=smoothed))


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("onnx", "float16"),
        ("ort-cpu", "float32"),
        ("ort-cpu", "int4"),
        ("ort-cpu", "int8"),
        ("ort-cuda", "int8-weights"),
        ("tensorrt-rtx", "bfloat16"),
        ("tensorrt-rtx", "int4"),
        ("tensorrt-rtx", "fp8"),
    ],
)
def test_the_data_file_is_as_large_as_planned(
    target: str,
    precision: str,
    random_hybrid: Path,
    export_artifact: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    options: dict[str, Any] = {}
    if precision == "fp8":
        options["calibration"] = random_scales(random_hybrid, tmp_path_factory.mktemp("scales") / "scales.safetensors")
    artifact = export_artifact(random_hybrid, target, precision=precision, **options)
    chunk = 16 if TARGETS[target].cache_headroom else None
    deployment = read_deployment(random_hybrid, target=target, precision=precision, max_length=256, prefill_chunk=chunk)

    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    outside = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "length"
    ]
    planned = [tensor.num_bytes for tensor in deployment.tensors]
    assert sorted(outside) == sorted(size for size in planned if size > INLINE_BYTES)
    size = (artifact / "model.onnx.data").stat().st_size
    assert sum(outside) <= size <= data_file_bytes(iter(deployment.tensors)) < size + ALIGNMENT * (len(outside) + 1)
    plan = MemoryPlan.of(deployment)
    assert (artifact / "model.onnx").stat().st_size + size < plan.disk + 32 * 1024


def test_an_export_is_planned_as_its_config_alone_says(random_hybrid: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((random_hybrid / "config.json").read_bytes())
    options: dict[str, Any] = {"target": "tensorrt-rtx", "precision": "int4", "max_length": 300, "prefill_chunk": 16}
    exported = plan_export(random_hybrid, **options)
    deployment = read_deployment(tmp_path, **options)
    assert exported.deployment == deployment
    assert exported.layout == deployment.layout
    _, manifest = draft(exported)
    assert manifest.cache == deployment.layout.to_dict()


@pytest.mark.parametrize(
    ("target", "precision"), [("onnx", "float32"), ("ort-cpu", "float32"), ("ort-cpu", "int4"), ("tensorrt-rtx", None)]
)
def test_the_cache_is_what_a_session_allocates(
    target: str, precision: str | None, random_hybrid: Path, export_artifact: Callable[..., Path]
) -> None:
    precision = precision or "float32"
    artifact = export_artifact(random_hybrid, target, precision=precision)
    chunk = 16 if TARGETS[target].cache_headroom else None
    with OnnxRuntimeSession(Artifact.open(artifact)) as session:
        for batch in (1, 3):
            buffers = CacheBuffers(session.geometry, batch)
            held = sum(tensor.nbytes for tensors in buffers.sets for tensor in tensors)
            deployment = read_deployment(
                random_hybrid,
                target=target,
                precision=precision,
                max_length=256,
                prefill_chunk=chunk,
                batch=batch,
            )
            cache = MemoryPlan.of(deployment).cache
            assert cache.total == held
            kinds = {True: 0, False: 0}
            for tensors in buffers.sets:
                for index, layer in enumerate(session.geometry.layout.layers):
                    kinds[bool(layer.window)] += sum(tensor.nbytes for tensor in tensors[2 * index : 2 * index + 2])
            assert (cache.local, cache.global_) == (kinds[True], kinds[False])
            assert torch.finfo(session.geometry.dtype).bits == 8 * deployment.cache_item_bytes
