"""Checkpoints with sparse layers: every form of their tensors, what is left out, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exaone_export.errors import CalibrationError, CheckpointError, ConfigError, TargetError
from exaone_export.exporter.calibrate.run import calibrate
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import export
from exaone_export.exporter.plan.export_plan import plan_export
from exaone_export.exporter.reference.layer_stream import stream_layers
from exaone_export.exporter.reference.range_check import largest_activations
from exaone_export.exporter.reference.weights import load_reference
from exaone_export.planning.stored_tensors import INLINE_BYTES
from exaone_export.targets.cache_layout import CacheLayout
from tests.sparse_models import save_sparse

STEM = "model.layers.1.mlp."


@pytest.fixture
def model(shared: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(save_sparse(shared), tmp_path / "model"))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def fuse(tensors: dict[str, torch.Tensor]) -> None:
    for layer in (1, 2):
        stem = f"model.layers.{layer}.mlp.experts."

        def take(expert: int, name: str, stem: str = stem) -> torch.Tensor:
            return tensors.pop(f"{stem}{expert}.{name}.weight")

        tensors[f"{stem}gate_up_proj"] = torch.stack(
            [torch.cat((take(expert, "gate_proj"), take(expert, "up_proj"))) for expert in range(8)]
        )
        tensors[f"{stem}down_proj"] = torch.stack([take(expert, "down_proj") for expert in range(8)])


def digest(artifact: Path) -> str:
    return hashlib.sha256((artifact / "model.onnx.data").read_bytes()).hexdigest()


def test_experts_in_one_tensor_are_those_in_many(model: Path, tmp_path: Path) -> None:
    apart = Checkpoint.open(model)
    name = f"{STEM}experts.5.up_proj.weight"
    wanted = apart.read(name).clone()
    export(model, tmp_path / "apart", target="ort-cpu", precision="int4", max_length=64)
    change(model, fuse)
    fused = Checkpoint.open(model)
    assert fused.tensors.keys() == apart.tensors.keys()
    assert torch.equal(fused.read(name), wanted)
    export(model, tmp_path / "fused", target="ort-cpu", precision="int4", max_length=64)
    assert digest(tmp_path / "fused") == digest(tmp_path / "apart")


def test_experts_in_one_tensor_of_another_shape_are_refused(model: Path) -> None:
    change(model, fuse)
    change(model, lambda tensors: tensors.update({f"{STEM}experts.down_proj": torch.zeros(8, 16, 32)}))
    with pytest.raises(CheckpointError, match=r"lacks .*experts\.0\.down_proj"):
        Checkpoint.open(model)


def test_the_bias_may_stand_in_the_router(model: Path) -> None:
    name = "e_score_correction_bias"
    wanted = Checkpoint.open(model).read(STEM + name).clone()
    change(model, lambda tensors: tensors.update({f"{STEM}gate.{name}": tensors.pop(STEM + name)}))
    assert torch.equal(Checkpoint.open(model).read(STEM + name), wanted)


def test_draft_layers_are_left_out_with_a_sentence(model: Path) -> None:
    change(model, lambda tensors: tensors.update({"mtp.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}))
    (sentence,) = Checkpoint.open(model).left_out
    assert "1 tensor" in sentence and "mtp.layers.0" in sentence


def test_a_missing_expert_is_named(model: Path) -> None:
    change(model, lambda tensors: tensors.pop(f"{STEM}experts.3.gate_proj.weight"))
    with pytest.raises(CheckpointError, match=r"experts\.3\.gate_proj"):
        Checkpoint.open(model)


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "ort-cuda"])
def test_quantized_experts_run_on_the_processor_alone(target: str, model: Path) -> None:
    with pytest.raises(TargetError) as caught:
        plan_export(model, target=target, precision="int4")
    assert "of a model with sparse layers; choose --precision from: float16" in str(caught.value)
    assert str(caught.value).endswith("or pass --target ort-cpu.")


def test_calibration_is_refused_with_what_to_do(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="--precision int4, which rounds to the nearest"):
        calibrate(model, tmp_path / "scales.safetensors", data=tmp_path / "none.jsonl")


def test_a_quantized_checkpoint_is_refused(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 16}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, CheckpointError)):
        plan_export(model, target="ort-cpu")


def test_experts_that_are_read_one_by_one_compute_the_same(model: Path) -> None:
    checkpoint = Checkpoint.open(model)
    tokens = torch.arange(20)[None] % 97
    held, passing = (stream(checkpoint, tokens, hold) for hold in (True, False))
    for one, other in zip(held, passing, strict=True):
        torch.testing.assert_close(one, other)


def stream(checkpoint: Checkpoint, tokens: torch.Tensor, hold: bool) -> list[torch.Tensor]:
    outputs = []
    for streamed in stream_layers(checkpoint, [tokens], hold=hold):
        with torch.inference_mode():
            streamed.run()
        outputs.append(streamed.hidden[0].clone())
    return outputs


def test_large_values_within_an_expert_are_seen(model: Path) -> None:
    """float16 would overflow inside of an expert, though nothing behind it is large."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for expert in range(8):
            tensors[f"{STEM}experts.{expert}.up_proj.weight"] *= 1e5
            tensors[f"{STEM}experts.{expert}.down_proj.weight"] *= 1e-5

    tokens = torch.arange(20)[None] % 97
    before = list(largest_activations(Checkpoint.open(model), tokens))
    change(model, edit)
    after = list(largest_activations(Checkpoint.open(model), tokens))
    assert before[1] < 1e3 < 1e4 < after[1]


@pytest.mark.parametrize("precision", ["float32", "int4", "int8"])
def test_the_plan_lists_what_the_graph_stores(
    precision: str, shared: Callable[..., Path], export_artifact: Callable[..., Path]
) -> None:
    import onnx_ir as ir

    folder = save_sparse(shared)
    plan = plan_export(folder, target="ort-cpu", precision=precision, max_length=256)
    graph = ir.load(export_artifact(folder, "ort-cpu", 256, precision) / "model.onnx")
    stored = sorted(value.const_value.nbytes for value in graph.graph.initializers.values())
    planned = sorted(tensor.num_bytes for tensor in plan.deployment.tensors)
    large = [size for size in planned if size > INLINE_BYTES]
    assert [size for size in stored if size > INLINE_BYTES] == large


def test_the_reference_holds_every_weight(model: Path) -> None:
    checkpoint = Checkpoint.open(model)
    reference = load_reference(checkpoint, CacheLayout.plan(checkpoint.spec.layers, 64, 0, 0))
    experts = reference.body.layers[1].mlp.experts
    up = checkpoint.read(f"{STEM}experts.5.up_proj.weight")
    assert torch.equal(experts.gate_up[5, :, 16:], up.T)
