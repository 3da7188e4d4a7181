"""The export as a whole: what is written, and that bad input leaves nothing behind."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import rsa
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, Exaone4Config

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.main import cli
from exaone_export.errors import (
    ArtifactError,
    CheckpointError,
    ConfigError,
    ExaoneExportError,
    GraphContradictionError,
    KeyFileError,
    TargetError,
    UnsupportedOptionError,
)
from exaone_export.exporter import export as pipeline
from exaone_export.exporter.checkpoint.checkpoint import Checkpoint
from exaone_export.exporter.export import ExportOptions, export, plan_export
from exaone_export.exporter.plan.deployment import read_deployment
from exaone_export.exporter.reference.tracing import trace
from exaone_export.model.config.reading import read_spec_folder
from tests.conftest import TINY, SaveModel, random_model
from tests.shared import as_bytes


def test_the_artifact_holds_graph_weights_tokenizer_and_manifest(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    manifest = export(TINY, tmp_path / "out", max_length=128, progress=lambda *step: steps.append(step))
    assert Artifact.open(tmp_path / "out").manifest == manifest
    assert {"model.onnx", "model.onnx.data", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(
        manifest.files
    )
    assert manifest.target == "ort-cpu"
    assert manifest.source["name"] == "exaone4-tiny"
    assert manifest.cache["max_length"] == 128
    assert [layer["position"] for layer in manifest.layers] == (["rope"] * 3 + ["none"]) * 2
    written = [done for step, done, _ in steps if step == "write"]
    assert written
    assert written == sorted(written)


def spelled(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """A copy of the trained checkpoint with another ``config.json``."""
    folder.mkdir()
    for path in (*Checkpoint.open(TINY).sidecars, TINY / "model.safetensors"):
        shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key not in drop}))
    return folder


def test_every_command_runs_on_a_config_that_transformers_does_not_read(tmp_path: Path) -> None:
    """As the first release of the 32B spelled it, with kernels that are not installed here."""
    scaling = json.loads((TINY / "config.json").read_text())["rope_parameters"]
    model = spelled(
        tmp_path / "model",
        drop=("layer_types", "rope_parameters", "dtype"),
        sliding_window_pattern="LLLG",
        rope_theta=scaling.pop("rope_theta"),
        rope_scaling=scaling,
        torch_dtype="float32",
        attn_implementation="flash_attention_2",
        use_cache=False,
    )
    with pytest.raises((TypeError, ImportError)):
        Exaone4Config.from_pretrained(model)
    out, scales, data = tmp_path / "out", tmp_path / "scales.safetensors", tmp_path / "data.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "What is 27 + 45?"}], "answer": "72"}\n')
    assert export(model, out, max_length=128).model == read_spec_folder(TINY).to_config()
    commands: list[tuple[str | Path, ...]] = [
        ("generate", out, "-p", "What is 27 + 45?"),
        ("parity", out, model, "--length", "8", "--tokens", "2"),
        ("eval", out, model, "--data", data, "--min-accuracy", "1"),
        ("calibrate", model, scales, "--data", data),
    ]
    for command in commands:
        result = CliRunner().invoke(cli, [str(argument) for argument in command])
        assert result.exit_code == 0, (command, result.output)
    theirs = AutoConfig.from_pretrained(out)
    assert theirs.rope_parameters == {**scaling, "rope_theta": 10_000.0}
    assert (theirs.layer_types[:4], theirs.use_cache) == (["sliding_attention"] * 3 + ["full_attention"], False)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 8, 0)
    assert (
        AutoTokenizer.from_pretrained(out)("What is").input_ids
        == AutoTokenizer.from_pretrained(TINY)("What is").input_ids
    )


def test_a_head_that_repeats_the_embedding_changes_nothing(tmp_path: Path) -> None:
    alone, beside = random_model(tie_word_embeddings=True), tmp_path / "beside"
    alone.save_pretrained(tmp_path / "alone")
    alone.save_pretrained(beside)
    tensors = load_file(beside / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, beside / "model.safetensors")
    one, other = (export(tmp_path / name, tmp_path / f"of {name}", max_length=64) for name in ("alone", "beside"))
    assert one.files == other.files


def test_what_the_config_says_in_vain_is_told(random_hybrid: Path, tmp_path: Path) -> None:
    model = shutil.copytree(random_hybrid, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"sliding_window_pattern": 3}))
    told: list[str] = []
    export(model, tmp_path / "out", max_length=64, notice=told.append)
    assert told == ["config.json: sliding_window_pattern 3 is ignored, as transformers does: layer_types decides."]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layer_types"] == config["layer_types"]


@pytest.mark.parametrize("unknown", ["head.weight", "body.layers.1.attention.q_norm"])
def test_a_weight_that_nothing_is_read_for_is_never_left_out(
    unknown: str, random_hybrid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.weight_readers
    monkeypatch.setattr(
        pipeline,
        "weight_readers",
        lambda *given: {name: read for name, read in real(*given).items() if name != unknown},
    )
    with pytest.raises(GraphContradictionError, match=f"the graph has the weight {unknown}, and nothing"):
        export(random_hybrid, tmp_path / "out", max_length=64)
    assert not list(tmp_path.iterdir())


def test_weights_are_aligned_to_pages_for_mapping(random_hybrid: Path, tmp_path: Path) -> None:
    export(random_hybrid, tmp_path / "out", max_length=64)
    model = ir.load(tmp_path / "out" / "model.onnx")
    large = [value.const_value for value in model.graph.initializers.values() if value.const_value.nbytes > 2**20]
    assert all(tensor.offset % 4096 == 0 for tensor in large)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_portable_graph_has_one_precision_and_float32_norms(
    precision: str, random_hybrid: Path, tmp_path: Path
) -> None:
    manifest = export(random_hybrid, tmp_path / "out", target="onnx", precision=precision, max_length=64)
    assert {value for layer in manifest.layers for value in layer["precision"].values()} == {precision}
    model = ir.load(tmp_path / "out" / "model.onnx")
    for name, value in model.graph.initializers.items():
        if value.dtype != ir.DataType.INT64:
            exact = "norm" in name or name in {"body.cos", "body.sin"}
            assert value.dtype.numpy().name == ("float32" if exact else precision), name


def broken(folder: Path, how: str) -> Path:
    """A copy of a good checkpoint with one thing wrong."""
    model = random_model()
    if how == "NaN":
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    elif how == "NaN in the graph's file":  # where the small weights are
        with torch.no_grad():
            model.model.layers[1].self_attn.k_norm.weight[3] = float("nan")
    elif how == "infinite norm":
        model.model.norm.weight.data[3] = float("inf")
    model.save_pretrained(folder, max_shard_size="20KB")
    config = json.loads((folder / "config.json").read_text())
    shards = sorted(folder.glob("*.safetensors"))
    if how == "missing shard":
        shards[1].unlink()
    elif how == "truncated shard":
        shards[1].write_bytes(shards[1].read_bytes()[:-8])
    elif how == "pickle":
        for path in (*shards, folder / "model.safetensors.index.json"):
            path.unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    elif how == "unknown type":
        config["model_type"] = "llama"
    elif how == "contradiction":
        config["layer_types"] = ["full_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("how", "error", "sentence"),
    [
        ("NaN", CheckpointError, r"model\.layers\.1\.mlp\.up_proj\.weight"),
        ("NaN in the graph's file", CheckpointError, r"model\.layers\.1\.self_attn\.k_norm\.weight"),
        ("infinite norm", CheckpointError, r"^model\.norm\.weight in \S+ is inf at \[3\]; download the checkpoint"),
        ("missing shard", CheckpointError, r"model-00002-of"),
        ("truncated shard", CheckpointError, r"model-00002-of"),
        ("pickle", CheckpointError, r"pytorch_model\.bin"),
        ("unknown type", ConfigError, "llama"),
        ("contradiction", ConfigError, "layer_types"),
    ],
)
def test_a_bad_checkpoint_is_one_sentence_and_leaves_nothing(
    how: str, error: type[ExaoneExportError], sentence: str, tmp_path: Path
) -> None:
    model = broken(tmp_path / "model", how)
    (tmp_path / "place").mkdir()
    with pytest.raises(error, match=sentence) as caught:
        export(model, tmp_path / "place" / "out", max_length=64)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "place").iterdir())


def test_a_failed_export_leaves_the_artifact_that_was_there(random_hybrid: Path, tmp_path: Path) -> None:
    before = export(random_hybrid, tmp_path / "out", max_length=64)
    with pytest.raises(CheckpointError):
        export(broken(tmp_path / "model", "NaN"), tmp_path / "out", max_length=64, overwrite=True)
    assert Artifact.open(tmp_path / "out").manifest == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "model"}


def test_an_artifact_is_replaced_only_when_asked(random_hybrid: Path, tmp_path: Path) -> None:
    export(random_hybrid, tmp_path / "out", max_length=64)
    with pytest.raises(ArtifactError, match="--overwrite"):
        export(random_hybrid, tmp_path / "out", max_length=32)
    assert export(random_hybrid, tmp_path / "out", max_length=32, overwrite=True).cache["max_length"] == 32


def test_usual_names_of_precisions_are_taken(random_hybrid: Path, tmp_path: Path) -> None:
    def plan(**options: Any) -> dict[str, Any]:
        deployment = read_deployment(random_hybrid, max_length=64, **options)
        exported = plan_export(random_hybrid, max_length=64, **options)
        assert exported.recipe == deployment.recipe
        return deployment.recipe.to_dict()

    for alias, name in (("fp32", "float32"), ("fp16", "float16"), ("half", "float16"), ("bf16", "bfloat16")):
        found = plan(target="onnx", precision=alias)
        assert found == plan(target="onnx", precision=name)
        assert found["precision"] == found["compute_type"] == name
        assert plan(target="onnx", precision=name, compute_type=alias) == found
    assert plan(target="ort-cuda", precision="int4", compute_type="bf16")["compute_type"] == "bfloat16"
    assert export(random_hybrid, tmp_path / "out", precision="fp32", max_length=64).precision == "float32"
    with pytest.raises(TargetError, match="target ort-cpu does not run precision 'float16'"):
        plan(precision="fp16")


def test_options_are_an_object_or_keywords(random_hybrid: Path) -> None:
    options = ExportOptions(target="ort-cuda", precision="int4", max_length=64)
    plan = plan_export(random_hybrid, options)
    assert plan.deployment == plan_export(random_hybrid, target="ort-cuda", precision="int4", max_length=64).deployment
    assert plan.deployment == read_deployment(random_hybrid, options)
    assert plan_export(random_hybrid, options, max_length=32).layout.max_length == 32
    with pytest.raises(TypeError, match="precison"):
        plan_export(random_hybrid, precison="int4")


def test_what_a_target_cannot_do_is_refused_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        TargetError, match="target ort-cpu does not run precision 'float16'; choose --precision from: float32"
    ):
        export(tmp_path / "nothing", tmp_path / "out", precision="float16")
    with pytest.raises(TargetError, match="target 'gpu' is unknown; choose --target from: onnx, ort-cpu"):
        export(tmp_path / "nothing", tmp_path / "out", target="gpu")


def test_a_length_that_the_model_does_not_know_is_refused(random_hybrid: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="max length is 513, and the model knows 512 positions: pass --max-length 512"
    ):
        export(random_hybrid, tmp_path / "out", max_length=513)


def test_a_graph_that_contradicts_its_spec_is_not_written(
    random_hybrid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that goes wrong is seen by the reader, and nothing is written."""
    lower = pipeline.lower

    def widen(*arguments, **options):  # type: ignore[no-untyped-def]
        model = lower(*arguments, **options)
        for node in model.graph:
            if node.op_type == "GroupQueryAttention" and "local_window_size" in node.attributes:
                node.attributes["local_window_size"] = ir.AttrInt64("local_window_size", 9)
        return model

    monkeypatch.setattr(pipeline, "lower", widen)
    with pytest.raises(ExaoneExportError, match="layer 0 of the graph has window 9, and the model has 8"):
        export(random_hybrid, tmp_path / "out", max_length=64)
    assert not list(tmp_path.iterdir())


def test_nothing_of_a_model_is_read_twice_or_before_it_is_written(
    tmp_path: Path, save_model: SaveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = pipeline.plan_export(save_model(), max_length=64)
    reads: list[str] = []
    read = Checkpoint.read_rows
    monkeypatch.setattr(
        Checkpoint, "read_rows", lambda self, name, rows: (reads.append(name), read(self, name, rows))[1]
    )
    pipeline.draft(plan)
    assert reads == []
    pipeline.write_artifact(plan, tmp_path / "out")
    assert sorted(reads) == sorted(plan.checkpoint.tensors)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        # Other numbers everywhere, some of them one.
        (
            {
                "head": "token-classification",
                "num_labels": 1,
                "vocab_size": 61,
                "hidden_size": 24,
                "intermediate_size": 56,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 12,
                "rms_norm_eps": 1e-6,
                "sliding_window": 1,
            },
            torch.float16,
        ),
    ],
)
def test_a_trace_that_tests_share_is_what_a_trace_of_its_own_would_be(
    changes: dict[str, object], dtype: torch.dtype, save_model: SaveModel
) -> None:
    """Tests resize one trace of a structure; a trace that held a size elsewhere would not allow it."""
    plan = pipeline.plan_export(save_model(**changes), target="tensorrt-rtx", precision="float32", max_length=203)
    spec = plan.checkpoint.spec
    shared, own = pipeline.trace(spec, plan.layout, dtype), trace(spec, plan.layout, dtype)
    assert as_bytes(shared) == as_bytes(own)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"max_length": "512"}, "max_length is '512', of type str; pass an int."),
        ({"max_length": 512.0}, "max_length is 512.0, of type float; pass an int."),
        ({"max_length": True}, "max_length is True, of type bool; pass an int."),
        ({"prefill_threshold": 2.5}, "prefill_threshold is 2.5, of type float; pass an int."),
        ({"target": None}, "target is None, of type NoneType; pass a str."),
        ({"precision": 8}, "precision is 8, of type int; pass a str."),
        ({"calibration": 5}, "calibration is 5, of type int; pass a str or a Path."),
        ({"inline": 1}, "inline is 1, of type int; pass a bool."),
    ],
)
def test_options_of_another_type_are_refused(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOptionError, match=re.escape(sentence)):
        export(TINY, tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


def test_another_signing_key_than_one_of_ed25519_is_refused_before_the_work(tmp_path: Path) -> None:
    for key, sentence in (
        (tmp_path / "key.pem", "does not exist"),
        (5, "the signing key is of type int; pass an Ed25519 private key, or the path of one in PEM form."),
        (rsa.generate_private_key(65537, 1024), "the signing key is of type RSAPrivateKey; pass an Ed25519"),
    ):
        with pytest.raises(KeyFileError, match=sentence):
            export(TINY, tmp_path / "out", signing_key=key)
    assert not list(tmp_path.iterdir())
