"""EXAONE 3 and EXAONE 4.5's language model on every CPU target, against the models as transformers loads them.

``benchmarks/families/parity.py`` does the same with more and with irregular shapes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from exaone_export import ExaoneForCausalLM
from exaone_export.artifact.reader import Artifact
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import export, plan_export
from exaone_export.exporter.reference.side import transformers_side
from exaone_export.runtime.mirror import config
from exaone_export.runtime.mirror.heads import open_model
from exaone_export.runtime.parity.compare import LIMITS, Side, compare, random_prompts
from exaone_export.runtime.parity.sides import TorchSide, artifact_side
from tests.families import family_model, needs_exaone3

pytestmark = needs_exaone3


@contextmanager
def theirs(folder: Path) -> Iterator[Side]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    yield TorchSide(model, model.model.layers)


def test_exaone_3_is_what_transformers_loads(shared: Callable[..., Path], export_artifact: Callable[..., Path]) -> None:
    model = family_model(shared, "exaone")
    sides = {"transformers": (partial(theirs, model), LIMITS["float32"])}
    for target in ("onnx", "ort-cpu", "tensorrt-rtx"):
        artifact = export_artifact(model, target, 400, "float32")
        sides[target] = (partial(artifact_side, artifact), LIMITS["float32"])
    report = compare(sides, random_prompts(97, [100], seed=2), new_tokens=256)
    assert [row.side for row in report.rows] == ["onnx", "ort-cpu", "tensorrt-rtx"]
    assert report.passed, report.rows


def test_the_published_spelling_exports_alike(
    shared: Callable[..., Path], export_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    """The keys, and the code, that the files of EXAONE 3 name; the graph and its weights are the same."""
    model = family_model(shared, "exaone")
    folder = shutil.copytree(model, tmp_path / "model")
    said = json.loads((folder / "config.json").read_bytes())
    for key, theirs in (("num_hidden_layers", "num_layers"), ("rms_norm_eps", "layer_norm_epsilon")):
        said[theirs] = said.pop(key)
    said["auto_map"] = {"AutoConfig": "configuration_exaone.ExaoneConfig"}
    (folder / "config.json").write_text(json.dumps(said))
    manifest = export(folder, tmp_path / "artifact", target="ort-cpu", precision="float32", max_length=400)
    for name in ("model.onnx", "model.onnx.data"):
        wanted = export_artifact(model, "ort-cpu", 400, "float32") / name
        assert (tmp_path / "artifact" / name).read_bytes() == wanted.read_bytes()
    assert manifest.model["architectures"] == ["ExaoneForCausalLM"]
    assert "auto_map" not in json.loads((tmp_path / "artifact" / "config.json").read_bytes())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_exaone_3_quantized(precision: str, shared: Callable[..., Path], export_artifact: Callable[..., Path]) -> None:
    model = family_model(shared, "exaone", tie_word_embeddings=True)
    artifact = export_artifact(model, "ort-cpu", 400, precision)
    sides = {
        "transformers": (partial(theirs, model), LIMITS["float32"]),
        "ort-cpu": (partial(artifact_side, artifact), LIMITS[precision]),
    }
    report = compare(sides, random_prompts(97, [100], seed=2), new_tokens=0)
    assert report.passed, report.rows
    assert report.rows[0].kl > 1e-8  # it is rounded


def test_the_language_model_of_exaone_4_5_is_the_whole_models(
    shared: Callable[..., Path], export_artifact: Callable[..., Path]
) -> None:
    model = family_model(shared, "exaone4_5")
    artifact = export_artifact(model, "ort-cpu", 400, "float32")
    whole = transformers.Exaone4_5_ForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
    tokens = random_prompts(97, [100], seed=2)[0][None]
    with torch.no_grad():
        wanted = whole(tokens).logits
    options = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 64, "do_sample": False, "eos_token_id": 97}
    with ExaoneForCausalLM.from_pretrained(artifact) as ours:
        found = ours(tokens).logits
        answer = ours.generate(tokens, **options)
    assert (found - wanted).abs().max() < 1e-4 * wanted.std()
    assert answer.tolist() == whole.generate(tokens, **options).tolist()
    assert answer.shape[1] == 164
    assert json.loads((artifact / "config.json").read_bytes())["model_type"] == "exaone4"


def test_what_is_left_out_is_said(shared: Callable[..., Path]) -> None:
    model = family_model(shared, "exaone4_5")
    assert next(iter(plan_export(model).remarks())) == (
        f"{model.name}: left out 18 tensors of the vision model (model.visual.blocks.0.attn.proj.bias, …): the "
        f"language model alone is exported."
    )


def test_a_head_of_exaone_3(shared: Callable[..., Path], export_artifact: Callable[..., Path]) -> None:
    model = family_model(shared, "exaone", head="ForSequenceClassification", num_labels=3)
    artifact = export_artifact(model, "ort-cpu", 64, "float32")
    whole = transformers.LlamaForSequenceClassification.from_pretrained(model, dtype=torch.float32)
    tokens = random_prompts(97, [20], seed=2)[0][None].clamp(min=3)
    with torch.no_grad():
        wanted = whole(tokens).logits
    with open_model(Artifact.open(artifact)) as ours:
        assert type(ours).__name__ == "ExaoneForSequenceClassification"
        assert (ours(tokens).logits - wanted).abs().max() < 1e-4


def test_the_graph_of_exaone_3_is_read_back(shared: Callable[..., Path], export_artifact: Callable[..., Path]) -> None:
    layers = json.loads(
        (export_artifact(family_model(shared, "exaone"), "ort-cpu", 400, "float32") / "exaone_export.json").read_bytes()
    )["layers"]
    assert {(layer["norms"], layer["qk_norm"], layer["position"], layer["window"]) for layer in layers} == {
        ("input", False, "rope", 0)
    }


def test_no_class_of_its_own_is_needed(
    shared: Callable[..., Path], export_artifact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.23 has no `ExaoneConfig`; its Llama is the same model."""
    model = family_model(shared, "exaone")
    checkpoint, artifact = Checkpoint.open(model), export_artifact(model, "ort-cpu", 400, "float32")
    tokens = random_prompts(97, [20], seed=2)[0]
    with transformers_side(checkpoint) as side:
        wanted = side.outputs(tokens)["logits"]
    monkeypatch.setattr(config, "transformers", SimpleNamespace(LlamaConfig=transformers.LlamaConfig))
    with transformers_side(checkpoint) as side:
        assert torch.equal(side.outputs(tokens)["logits"], wanted)
    with ExaoneForCausalLM.from_pretrained(artifact) as ours:
        assert isinstance(ours.config, transformers.LlamaConfig)
        assert (ours(tokens[None]).logits[0] - wanted).abs().max() < 1e-4 * wanted.std()
