"""A checkpoint is checked whole before it is read, and a damaged or hostile one is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Exaone4Config, Exaone4ForCausalLM

from exaone_export.errors import CheckpointError, ConfigError, UnsupportedOptionError
from exaone_export.exporter.checkpoint.checkpoint import INDEX_NAME, WEIGHTS_NAME, Checkpoint
from exaone_export.exporter.checkpoint.safetensors_file import MAX_HEADER_BYTES
from exaone_export.model.config.reading import read_spec
from exaone_export.model.spec import ModelSpec, RopeSpec
from exaone_export.model.tensors import expected_tensors

SPEC = ModelSpec(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
    layer_types=("sliding_attention", "sliding_attention", "sliding_attention", "full_attention"),
    sliding_window=8,
    rope=RopeSpec("default", 10_000.0),
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=0,
)
NORM = "model.norm.weight"
HARMFUL = ("pytorch_model.bin", "model.pt", "weights.pth", "modeling_exaone4.py", "model.gguf", "training_args.bin")


@pytest.fixture(scope="module")
def model() -> Exaone4ForCausalLM:
    torch.manual_seed(0)
    return Exaone4ForCausalLM(Exaone4Config(**SPEC.to_config()))


@pytest.fixture(scope="module")
def _saved(model: Exaone4ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    whole, sharded = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("sharded")
    model.save_pretrained(whole)
    model.save_pretrained(sharded, max_shard_size="10KB")
    return whole, sharded


@pytest.fixture
def whole(_saved: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(_saved[0], tmp_path / "whole")


@pytest.fixture
def sharded(_saved: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(_saved[1], tmp_path / "sharded")


def refused(folder: Path, message: str) -> None:
    """Opening raises CheckpointError of one sentence that contains ``message``."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    text = str(caught.value)
    assert message in text
    assert text.endswith(".")
    assert "\n" not in text


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    write_raw(path, json.dumps(header).encode(), data[8 + length :])


def write_raw(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


# What is read


@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_every_tensor_is_the_models(kind: str, model: Exaone4ForCausalLM, request: pytest.FixtureRequest) -> None:
    checkpoint = Checkpoint.open(request.getfixturevalue(kind))
    state = model.state_dict()
    assert checkpoint.spec == read_spec(model.config.to_dict())
    assert checkpoint.tensors.keys() == state.keys() == expected_tensors(SPEC).keys()
    for name, tensor in state.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert checkpoint.tensors[name].dtype == "F32"
        assert torch.equal(checkpoint.read(name), tensor)
    assert (checkpoint.name, checkpoint.revision) == (kind, None)
    assert len(checkpoint.shards) == len({tensor.shard for tensor in checkpoint.tensors.values()})
    assert (len(checkpoint.shards) > 1) == (kind == "sharded")


def test_tied_words_have_no_head(tmp_path: Path) -> None:
    config = Exaone4Config(**{**SPEC.to_config(), "tie_word_embeddings": True})
    Exaone4ForCausalLM(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in Checkpoint.open(tmp_path).tensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(whole: Path, dtype: torch.dtype) -> None:
    edit_tensors(whole / WEIGHTS_NAME, lambda t: t.update({name: tensor.to(dtype) for name, tensor in t.items()}))
    assert Checkpoint.open(whole).read(NORM).dtype == dtype


def test_an_index_in_any_order(sharded: Path, model: Exaone4ForCausalLM) -> None:
    def shuffle(index: dict[str, Any]) -> None:
        index["weight_map"] = dict(sorted(index["weight_map"].items(), key=lambda item: item[0][::-1]))

    edit_json(sharded / INDEX_NAME, shuffle)
    assert torch.equal(Checkpoint.open(sharded).read(NORM), model.state_dict()[NORM])


def test_where_a_tensor_lies_the_shards_say(sharded: Path, model: Exaone4ForCausalLM) -> None:
    """Tools that edit checkpoints leave the index behind, and transformers reads in it which files there are alone."""

    def change(index: dict[str, Any]) -> None:
        names = sorted(set(index["weight_map"].values()))
        index["weight_map"] = {"ghost": names[0], NORM: names[0]} | {name: name for name in names}

    edit_json(sharded / INDEX_NAME, change)
    checkpoint = Checkpoint.open(sharded)
    assert checkpoint.tensors.keys() == expected_tensors(SPEC).keys()
    assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in model.state_dict().items())
    Exaone4ForCausalLM.from_pretrained(sharded)


BUFFERS = {
    "rotary_emb.inv_freq": torch.ones(4),
    "model.rotary_emb.inv_freq": torch.ones(4, dtype=torch.float64),
    "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4),
    "model.layers.1.self_attn.rotary_emb.cos_cached": torch.ones(1, 1, 64, 8),
    "model.layers.1.self_attn.masked_bias": torch.tensor(-1e9),
    "model.position_ids": torch.arange(64)[None],
}


@pytest.mark.parametrize("kind", ["whole", "sharded"])
def test_buffers_that_older_programs_saved(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    file = folder / WEIGHTS_NAME if kind == "whole" else shards(folder)[0]
    edit_tensors(file, lambda tensors: tensors.update(BUFFERS))
    assert Checkpoint.open(folder).tensors.keys() == expected_tensors(SPEC).keys()


@pytest.mark.parametrize("name", ["rotary_emb.inv_freq.weight", "model.inv_freq", "position_ids.bias", "amasked_bias"])
def test_tensors_that_only_look_like_buffers(whole: Path, name: str) -> None:
    edit_tensors(whole / WEIGHTS_NAME, lambda tensors: tensors.update({name: torch.ones(4)}))
    refused(whole, f"has {name}, which its config.json has no place for")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_is_the_embedding_it_is_tied_to(whole: Path, dtype: torch.dtype) -> None:
    def tie(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].to(dtype)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].float().clone()

    edit_tensors(whole / WEIGHTS_NAME, tie)
    edit_json(whole / "config.json", lambda config: config.update(tie_word_embeddings=True))
    checkpoint = Checkpoint.open(whole)
    assert checkpoint.tensors.keys() == expected_tensors(checkpoint.spec).keys()
    assert "lm_head.weight" not in checkpoint.tensors


@pytest.mark.parametrize(
    "name", ["gptq_model-4bit-128g.safetensors", "weights.safetensors", "consolidated.safetensors"]
)
def test_one_file_of_another_name(whole: Path, name: str) -> None:
    (whole / WEIGHTS_NAME).rename(whole / name)
    assert Checkpoint.open(whole).shards[0].path.name == name


def test_an_index_of_some_of_the_shards_is_not_the_config_that_is_wrong(sharded: Path) -> None:
    index = json.loads((sharded / INDEX_NAME).read_text())
    first, second, *_ = sorted(set(index["weight_map"].values()))
    index["weight_map"] = {name: first if shard == second else shard for name, shard in index["weight_map"].items()}
    (sharded / INDEX_NAME).write_text(json.dumps(index))
    refused(sharded, f"does not name {second}, part of the same checkpoint; download the index again.")


def test_shards_of_another_name(sharded: Path) -> None:
    for shard in shards(sharded):
        shard.rename(sharded / shard.name.replace("model-", "gptq_model-4bit-128g-"))
    index = json.loads((sharded / INDEX_NAME).read_text().replace("model-", "gptq_model-4bit-128g-"))
    (sharded / INDEX_NAME).unlink()
    (sharded / "gptq_model-4bit-128g.safetensors.index.json").write_text(json.dumps(index))
    assert Checkpoint.open(sharded).tensors.keys() == expected_tensors(SPEC).keys()


def test_shards_that_are_complete_need_no_index(sharded: Path) -> None:
    (sharded / INDEX_NAME).unlink()
    assert Checkpoint.open(sharded).tensors.keys() == expected_tensors(SPEC).keys()
    lost = shards(sharded)[-1]
    lost.unlink()
    refused(sharded, f"{sharded} lacks {lost.name}; download the checkpoint again.")


def test_files_that_may_not_belong_together(whole: Path) -> None:
    (whole / WEIGHTS_NAME).rename(whole / "a.safetensors")
    shutil.copyfile(whole / "a.safetensors", whole / "b.safetensors")
    refused(whole, f"has a.safetensors, b.safetensors and no {INDEX_NAME} that says which of them belong together")


def test_the_links_of_the_hub_cache(sharded: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in sharded.iterdir():
        blob = blobs / hashlib.sha256(path.name.encode()).hexdigest()
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    checkpoint = Checkpoint.open(snapshot)
    for name in checkpoint.tensors:
        checkpoint.read(name)
    assert [path.name for path in checkpoint.sidecars] == ["config.json", "generation_config.json"]
    assert checkpoint.fingerprint() == Checkpoint.open(sharded).fingerprint()


def test_a_read_only_folder(whole: Path) -> None:
    for path in whole.iterdir():
        path.chmod(0o444)
    whole.chmod(0o555)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in whole.iterdir()}
    checkpoint = Checkpoint.open(whole)
    checkpoint.read(NORM).add_(1)  # The mapping is private: writing to a tensor must not reach the file.
    checkpoint.fingerprint()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in whole.iterdir()} == before
    whole.chmod(0o755)


def test_sidecars(whole: Path) -> None:
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "merges.txt",
        "LICENSE",
        "LICENSE.txt",
        "chat_template.jinja",
    ):
        (whole / name).write_text("{}")
    (whole / "vocab.json").mkdir()
    (whole / "added_tokens.json").symlink_to("nowhere")
    for name in ("README.md", "modeling_evil.py", "pytorch_model.bin"):
        (whole / name).write_text("")
    assert [path.name for path in Checkpoint.open(whole).sidecars] == [
        "LICENSE",
        "LICENSE.txt",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_fingerprint_tells_trainings_apart(whole: Path, tmp_path: Path) -> None:
    first = Checkpoint.open(whole).fingerprint()
    copy = shutil.copytree(whole, tmp_path / "copy")
    assert Checkpoint.open(copy).fingerprint() == first

    edit_tensors(copy / WEIGHTS_NAME, lambda tensors: tensors[NORM].add_(0.5))
    assert Checkpoint.open(copy).fingerprint() != first
    shutil.copyfile(whole / WEIGHTS_NAME, copy / WEIGHTS_NAME)
    assert Checkpoint.open(copy).fingerprint() == first
    edit_json(copy / "config.json", lambda config: config.update(rms_norm_eps=1e-6))
    assert Checkpoint.open(copy).fingerprint() != first


# What is refused


FOLDERS: dict[str, tuple[dict[str, str], str]] = {
    "empty": ({}, "is empty; give a folder with config.json and model.safetensors, or a hub id."),
    "GGUF": (
        {"EXAONE-4.0-1.2B-Q4_K_M.gguf": "GGUF"},
        "holds GGUF files (EXAONE-4.0-1.2B-Q4_K_M.gguf) and no safetensors, and GGUF cannot be exported; give the "
        "checkpoint in Hugging Face form that they were made from.",
    ),
    "GGUF beside a config": (
        {"config.json": json.dumps(SPEC.to_config()), "a.gguf": "GGUF"},
        "holds GGUF files (a.gguf)",
    ),
    "pickles": (
        {"pytorch_model.bin": "", "training_args.bin": ""},
        "has pickled weights only (pytorch_model.bin), and a pickle runs code when opened; convert it with "
        "save_pretrained of transformers, which writes safetensors.",
    ),
    "an adapter": (
        {
            "adapter_config.json": json.dumps({"base_model_name_or_path": "LGAI-EXAONE/EXAONE-4.0-1.2B"}),
            "adapter_model.safetensors": "",
        },
        "holds an adapter of 'LGAI-EXAONE/EXAONE-4.0-1.2B', not a whole model; merge it with merge_and_unload() of "
        "peft and give the folder that save_pretrained writes.",
    ),
    "an adapter without its config": (
        {"adapter_model.safetensors": ""},
        "holds an adapter, not a whole model; merge it",
    ),
    "an artifact": (
        {"exaone_export.json": "{}", "model.onnx": "", "config.json": json.dumps(SPEC.to_config())},
        "is an artifact of an export, not a checkpoint; give the checkpoint that it was exported from.",
    ),
    "weights without a config": (
        {"model.safetensors": ""},
        "has weights and no config.json; copy the checkpoint's config.json into it.",
    ),
    "a folder around a checkpoint": ({"inside/config.json": "{}"}, "inside looks like one; give that folder."),
    "a repository of the cache": ({"snapshots/0123/config.json": "{}"}, "give the folder of one commit in "),
    "something else": ({"notes.txt": ""}, "has neither a config.json nor safetensors files; give a folder with"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_are_no_checkpoint(name: str, tmp_path: Path) -> None:
    files, message = FOLDERS[name]
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    refused(tmp_path, message)


def test_another_family_is_told_before_its_code(whole: Path) -> None:
    """Advice to remove the code would only lead to the next refusal."""
    edit_json(whole / "config.json", lambda c: c.update(model_type="llama", auto_map={"AutoConfig": "a.Config"}))
    with pytest.raises(ConfigError, match="model_type is 'llama', which has no exporter"):
        Checkpoint.open(whole)


def test_a_classifier(whole: Path) -> None:
    def classify(tensors: dict[str, torch.Tensor]) -> None:
        tensors["score.weight"] = tensors.pop("lm_head.weight")[:2].clone()

    edit_tensors(whole / WEIGHTS_NAME, classify)
    edit_json(whole / "config.json", lambda c: c.update(architectures=["Exaone4ForMultipleChoice"]))
    with pytest.raises(ConfigError, match=r"architectures is \['Exaone4ForMultipleChoice'\], and only"):
        Checkpoint.open(whole)


def test_a_quantized_folder_whose_config_does_not_say_so(whole: Path) -> None:
    (whole / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
    Checkpoint.open(whole)  # left behind by a conversion
    qweight = {"model.layers.0.mlp.up_proj.qweight": torch.zeros(2, 2, dtype=torch.int32)}
    edit_tensors(whole / WEIGHTS_NAME, lambda tensors: tensors.update(qweight))
    with pytest.raises(ConfigError, match=r"quantize_config\.json, and config\.json has no quantization_config"):
        Checkpoint.open(whole)


def test_no_weights(whole: Path) -> None:
    (whole / WEIGHTS_NAME).unlink()
    refused(
        whole,
        f"has neither {WEIGHTS_NAME} nor {INDEX_NAME}; download the checkpoint again, or choose one that is "
        "published as safetensors.",
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "weights.pth"])
def test_pickles_are_never_opened(whole: Path, name: str) -> None:
    (whole / WEIGHTS_NAME).unlink()
    (whole / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    refused(whole, f"has pickled weights only ({name}), and a pickle runs code when opened; convert it with")


def test_a_pickle_beside_safetensors_is_ignored(whole: Path) -> None:
    (whole / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert Checkpoint.open(whole).read(NORM) is not None


def test_both_forms_of_weights(whole: Path, sharded: Path) -> None:
    shutil.copyfile(whole / WEIGHTS_NAME, sharded / WEIGHTS_NAME)
    refused(sharded, f"has both {WEIGHTS_NAME} and {INDEX_NAME}; remove the one that is stale.")


def test_unknown_model_type(whole: Path) -> None:
    edit_json(whole / "config.json", lambda config: config.update(model_type="llama"))
    with pytest.raises(ConfigError, match="model_type is 'llama'"):
        Checkpoint.open(whole)


def test_missing_shard(sharded: Path) -> None:
    lost = shards(sharded)[1]
    lost.unlink()
    refused(sharded, f"{sharded} lacks {lost.name}; download the checkpoint again.")


@pytest.mark.parametrize("missing", [1, 100])
def test_truncated_shard(sharded: Path, missing: int) -> None:
    shard = shards(sharded)[0]
    size = shard.stat().st_size
    os.truncate(shard, size - missing)
    refused(
        sharded, f"{shard} has {size - missing} bytes where its header needs {size}; download the checkpoint again."
    )


@pytest.mark.parametrize("size", [0, 4, 8, 40])
def test_shard_cut_within_its_header(whole: Path, size: int) -> None:
    os.truncate(whole / WEIGHTS_NAME, size)
    refused(whole, "ends within its header; download the checkpoint again.")


def test_bytes_after_the_last_tensor(whole: Path) -> None:
    with (whole / WEIGHTS_NAME).open("ab") as file:
        file.write(b"\0")
    refused(whole, "bytes where its header needs")


def test_shard_that_is_a_fifo(sharded: Path) -> None:
    shard = shards(sharded)[0]
    shard.unlink()
    os.mkfifo(shard)
    refused(sharded, "is not a regular file")


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        ".hidden.safetensors",
        "model.safetensors\0",
        "pytorch_model.bin",
        "",
        7,
        None,
        ["model.safetensors"],
    ],
)
def test_index_names_only_its_neighbours(sharded: Path, name: object) -> None:
    shutil.copyfile(shards(sharded)[0], sharded.parent / "other.safetensors")
    edit_json(sharded / INDEX_NAME, lambda index: index["weight_map"].update({NORM: name}))
    refused(sharded, "which is not a safetensors file beside it; download the checkpoint again.")


@pytest.mark.parametrize("weight_map", [None, {}, [], "all"])
def test_index_without_weights(sharded: Path, weight_map: object) -> None:
    edit_json(sharded / INDEX_NAME, lambda index: index.update(weight_map=weight_map))
    refused(sharded, "has no weight_map; download the checkpoint again.")


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    other = next(shard for shard in shards(sharded) if NORM not in load_file(shard))
    edit_tensors(other, lambda tensors: tensors.update({NORM: torch.zeros(16)}))
    refused(sharded, f"has {NORM} in both ")


def test_missing_tensors_are_named_up_to_three(whole: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "q_norm" in name]:
            del tensors[name]

    edit_tensors(whole / WEIGHTS_NAME, drop)
    refused(
        whole,
        "lacks model.layers.0.self_attn.q_norm.weight, model.layers.1.self_attn.q_norm.weight, "
        "model.layers.2.self_attn.q_norm.weight and 1 more, which its config.json calls for; download the checkpoint "
        "again, or choose the matching config.",
    )


def test_extra_tensor(whole: Path) -> None:
    edit_tensors(whole / WEIGHTS_NAME, lambda tensors: tensors.update({"model.bias": torch.zeros(1)}))
    refused(whole, "has model.bias, which its config.json has no place for; choose the matching config.")


def test_a_head_apart_from_the_embedding_that_it_is_tied_to(whole: Path) -> None:
    edit_json(whole / "config.json", lambda config: config.update(tie_word_embeddings=True))
    refused(
        whole,
        f"{whole} has a vocabulary projection (lm_head.weight) that differs from the embedding, and its config.json "
        "ties the two; to keep it, write tie_word_embeddings: false in config.json.",
    )
    edit_json(whole / "config.json", lambda config: config.update(tie_word_embeddings=False))
    assert "lm_head.weight" in Checkpoint.open(whole).tensors


@pytest.mark.parametrize("head", [torch.zeros(60, 8), torch.zeros(61, 16), torch.zeros(60, 16)])
def test_other_heads_beside_tied_embeddings(whole: Path, head: torch.Tensor) -> None:
    edit_json(whole / "config.json", lambda config: config.update(tie_word_embeddings=True))
    edit_tensors(whole / WEIGHTS_NAME, lambda tensors: tensors.update({"lm_head.weight": head}))
    refused(whole, "that differs from the embedding")


def test_no_head(whole: Path) -> None:
    edit_tensors(whole / WEIGHTS_NAME, lambda tensors: tensors.pop("lm_head.weight"))
    refused(whole, "lacks lm_head.weight, which Exaone4ForCausalLM has; where the embedding is the vocabulary")
    edit_json(whole / "config.json", lambda config: config.update(tie_word_embeddings=True))
    Checkpoint.open(whole)


def test_tensors_of_another_layout(whole: Path) -> None:
    save_file({"tok_embeddings.weight": torch.zeros(60, 16)}, whole / "consolidated.safetensors")
    (whole / WEIGHTS_NAME).unlink()
    refused(whole, "has tensors of another layout (tok_embeddings.weight), and only that of transformers' EXAONE 4")


def test_wrong_shape(whole: Path) -> None:
    edit_tensors(whole / WEIGHTS_NAME, lambda tensors: tensors.update({NORM: torch.zeros(4, 4)}))
    refused(whole, f"does not fit its config.json: {NORM} [4, 4] in place of [16]; choose the matching config.")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn])
def test_types_that_are_not_exported(whole: Path, dtype: torch.dtype) -> None:
    edit_tensors(whole / WEIGHTS_NAME, lambda tensors: tensors.update({NORM: torch.zeros(16).to(dtype)}))
    fix = "convert it to float32" if dtype == torch.float64 else "use the unquantized checkpoint"
    refused(whole, f"and only F32, BF16, F16 can be exported; {fix}.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h[NORM].update(data_offsets=[0, 64]), "starts at byte"),
        (lambda h: h[NORM].update(data_offsets=[10**9, 10**9 + 64]), "starts at byte"),
        (lambda h: h[NORM].update(data_offsets=[64, 0]), "bytes where its shape needs 64"),
        (lambda h: h[NORM].update(data_offsets=[-64, 0]), "does not describe"),
        (lambda h: h[NORM].update(data_offsets=[0]), "does not describe"),
        (lambda h: h[NORM].update(data_offsets=[0.0, 64.0]), "does not describe"),
        (lambda h: h[NORM].update(data_offsets=[0, 2**70]), "does not describe"),
        (lambda h: h[NORM].update(shape=[8]), "bytes where its shape needs 32"),
        (lambda h: h[NORM].update(shape=[-16]), "does not describe"),
        (lambda h: h[NORM].update(shape="16"), "does not describe"),
        (lambda h: h[NORM].update(shape=[16] + [1] * 8), "does not describe"),
        (lambda h: h[NORM].pop("shape"), "does not describe"),
        (lambda h: h[NORM].update(dtype=["F32"]), "can be exported"),
        (lambda h: h.update({NORM: []}), "does not describe"),
    ],
)
def test_headers_that_lie(whole: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit_header(whole / WEIGHTS_NAME, change)
    refused(whole, message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[]", "holds a list, not an object"),
        (b"\xff\xff", "is not valid JSON"),
        (b'{"a": 1, "a": 2}', "gives the key 'a' twice"),
        (b'{"a": ' * 200 + b"1" + b"}" * 200, "is nested deeper than 32 levels"),
        (b"{" + b" " * MAX_HEADER_BYTES + b"}", f"and at most {MAX_HEADER_BYTES} are read"),
    ],
    ids=["list", "no text", "twice", "deep", "large"],
)
def test_headers_that_are_none(whole: Path, header: bytes, message: str) -> None:
    write_raw(whole / WEIGHTS_NAME, header, b"")
    refused(whole, message)


def test_header_length_beyond_the_file(whole: Path) -> None:
    (whole / WEIGHTS_NAME).write_bytes((1 << 63).to_bytes(8, "little") + b"{}")
    refused(whole, "ends within its header")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("index", [(0, 0), (37, 5), (59, 15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_finite(
    whole: Path, value: float, index: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "lm_head.weight"

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = tensors[name].to(dtype)
        tensors[name][index] = value
        tensors[name][59, 15] = value

    edit_tensors(whole / WEIGHTS_NAME, damage)
    monkeypatch.setattr("exaone_export.exporter.checkpoint.finite._SLICE", 100)
    checkpoint = Checkpoint.open(whole)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(name)
    assert f"{name} in {WEIGHTS_NAME} is {value} at {list(index)};" in str(caught.value)
    assert checkpoint.read(NORM).isfinite().all()


def test_file_that_changes_after_it_was_opened(whole: Path) -> None:
    checkpoint = Checkpoint.open(whole)
    tensors = load_file(whole / WEIGHTS_NAME)
    save_file({**tensors, NORM: torch.zeros(4, 4)}, whole / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match="changed while it was read; run the command"):
        checkpoint.read(NORM)
    (whole / WEIGHTS_NAME).unlink()
    with pytest.raises(CheckpointError, match="changed while it was read"):
        checkpoint.read(NORM)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.fingerprint()


def test_unknown_tensor(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint has no tensor"):
        Checkpoint.open(whole).read("model.bias")


# The hub


@pytest.mark.parametrize(
    "given",
    ["no/such/folder", "no-such-folder", "./LGAI/EXAONE", "a/../b", "", "-x/y", "a--b/c", "a/b.git", Path("a/b")],
)
def test_neither_folder_nor_hub_id(given: str | Path) -> None:
    with pytest.raises(CheckpointError, match="is neither a folder nor a hub id"):
        Checkpoint.open(given)


def test_revision_of_a_folder(whole: Path) -> None:
    with pytest.raises(UnsupportedOptionError, match="which has no revision 'main'; leave --revision out"):
        Checkpoint.open(whole, revision="main")


def test_hub_download(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = sharded.rename(tmp_path / "0123abcd")
    asked: dict[str, Any] = {}

    def download(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(hub_id=hub_id, revision=revision, patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    checkpoint = Checkpoint.open("LGAI-EXAONE/EXAONE-4.0-1.2B", "main")
    assert (checkpoint.name, checkpoint.revision) == ("LGAI-EXAONE/EXAONE-4.0-1.2B", "0123abcd")
    assert (asked["hub_id"], asked["revision"]) == ("LGAI-EXAONE/EXAONE-4.0-1.2B", "main")
    assert "model*.safetensors" in asked["patterns"]
    assert not [name for name in HARMFUL if any(fnmatch(name, pattern) for pattern in asked["patterns"])]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (huggingface_hub.errors.LocalEntryNotFoundError("offline"), "it is not whole in the cache and http"),
        (huggingface_hub.errors.OfflineModeIsEnabled("offline"), "and HF_HUB_OFFLINE is set: unset it, or download"),
        (huggingface_hub.errors.HFValidationError("bad id"), r"cannot be downloaded \(HFValidationError: bad id\); do"),
        (ConnectionError(), r"cannot be downloaded \(ConnectionError\); download it elsewhere"),
        (RuntimeError("a\nb"), r"cannot be downloaded \(RuntimeError: a\)"),  # the HTTP client's own
    ],
)
def test_hub_out_of_reach(error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(
        CheckpointError, match=rf"^LGAI-EXAONE/EXAONE-4.0-1.2B is not a local folder, .*{sentence}"
    ) as caught:
        Checkpoint.open("LGAI-EXAONE/EXAONE-4.0-1.2B")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
