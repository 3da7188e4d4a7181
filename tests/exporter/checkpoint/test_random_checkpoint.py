"""Random checkpoints are in the form of published ones, the same for a seed, and run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from exaone_export.errors import CheckpointError, ConfigError
from exaone_export.exporter.checkpoint import random_checkpoint
from exaone_export.exporter.checkpoint.checkpoint import INDEX_NAME, WEIGHTS_NAME, Checkpoint
from exaone_export.exporter.checkpoint.random_checkpoint import PUBLISHED, write_random_checkpoint
from exaone_export.model.config.reading import read_spec
from exaone_export.model.heads import ARCHITECTURES
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import num_parameters
from tests.cli.test_cli import run

SMALL = dataclasses.replace(
    PUBLISHED["32b"],
    vocab_size=500,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=8,
    layer_types=PUBLISHED["32b"].layer_types[:8],
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    sliding_window=8,
)
TIED = dataclasses.replace(SMALL, tie_word_embeddings=True)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.parametrize(("size", "parameters"), [("1.2b", 1_279_391_488), ("32b", 32_003_216_384)])
def test_published_shapes(size: str, parameters: int) -> None:
    spec = PUBLISHED[size]
    assert num_parameters(spec) == parameters
    assert read_spec(spec.to_config()) == spec
    assert sum(layer.rotary for layer in spec.layers) == {"1.2b": 30, "32b": 48}[size]


def test_usual_names_of_types_are_taken(tmp_path: Path) -> None:
    out = write_random_checkpoint(tmp_path / "out", SMALL, dtype="half")
    assert Checkpoint.open(out).spec.dtype == "float16"
    assert json.loads((out / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("spec", [SMALL, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_it_opens_here_and_in_transformers(tmp_path: Path, spec: ModelSpec, dtype: str) -> None:
    out = write_random_checkpoint(tmp_path / "out", spec, dtype=dtype, shard_bytes=100_000)
    checkpoint = Checkpoint.open(out)
    assert checkpoint.spec == dataclasses.replace(spec, dtype=dtype)
    assert len(checkpoint.shards) > 2

    model, report = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == getattr(torch, dtype)
    state = model.state_dict()
    for name in checkpoint.tensors:
        assert torch.equal(checkpoint.read(name), state[name])
    assert GenerationConfig.from_pretrained(out).eos_token_id == 361


@pytest.mark.parametrize("spec", [SMALL, TIED], ids=["untied", "tied"])
def test_its_numbers_are_of_use(tmp_path: Path, spec: ModelSpec) -> None:
    model = AutoModelForCausalLM.from_pretrained(write_random_checkpoint(tmp_path / "out", spec, dtype="float32"))
    tokens = torch.randint(0, spec.vocab_size, (4, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        result = model(tokens, output_hidden_states=True)
    assert all(states.isfinite().all() and states.abs().max() < 1000 for states in result.hidden_states)
    assert 0.3 < result.logits.std() < 5
    best = result.logits.argmax(-1)
    assert len(best.unique()) > 40  # It says different things at different places …
    assert (best == tokens).float().mean() < 0.1  # … and does not repeat what it was told.


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "causal-lm"])
def test_it_may_have_another_head(tmp_path: Path, kind: str) -> None:
    spec = read_spec(TIED.to_config() | {"architectures": [ARCHITECTURES[kind]], "num_labels": 3})
    out = write_random_checkpoint(tmp_path / "out", spec, dtype="float32", shard_bytes=500_000)
    assert Checkpoint.open(out).spec == dataclasses.replace(spec, dtype="float32")
    model, report = getattr(transformers, ARCHITECTURES[kind]).from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    if spec.head.module is not None:
        head = getattr(model, spec.head.module)
        assert 0.5 < head.weight.std() * spec.hidden_size**0.5 < 1.5
        assert head.bias is None or 0 < head.bias.abs().max() < 0.5  # not near 1, as a norm's weight
    # The body is that of the causal model, where the embedding does not make logits too.
    causal = weights(write_random_checkpoint(tmp_path / "causal", SMALL, dtype="float32"))
    assert all(torch.equal(tensor, causal[name]) for name, tensor in weights(out).items() if name.startswith("model."))


def test_the_command_draws_a_head(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--layers", "1", "--head", "sequence-classification", "--labels", "5", "--sparse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PUBLISHED, "1.2b", SMALL)
        done = run("random-checkpoint", out, *options)
        assert done.exit_code == 0, done.output
        assert Checkpoint.open(out).spec.head.labels == tuple(f"LABEL_{i}" for i in range(5))
        done = run("random-checkpoint", tmp_path / "other", "--head", "question-answering", "--labels", "5")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: invalid value for --labels: question-answering has none; pass --head sequence-classification or "
        "token-classification.\n"
    )
    assert not (tmp_path / "other").exists()


def test_one_shard_has_no_index(tmp_path: Path) -> None:
    out = write_random_checkpoint(tmp_path / "out", SMALL)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "generation_config.json", WEIGHTS_NAME]


def test_shards_are_as_published(tmp_path: Path) -> None:
    out = write_random_checkpoint(tmp_path / "out", SMALL, shard_bytes=100_000)
    index = json.loads((out / INDEX_NAME).read_text())
    shards = sorted(path.name for path in out.glob("model-*"))
    assert shards == [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    assert index["metadata"]["total_size"] == 2 * num_parameters(SMALL)
    assert sorted(set(index["weight_map"].values())) == shards
    for shard in Checkpoint.open(out).shards:
        assert sum(tensor.num_bytes for tensor in shard.tensors.values()) <= 100_000
        assert len(shard.raw) % 8 == 0


def test_a_tensor_larger_than_a_shard_stands_alone(tmp_path: Path) -> None:
    out = write_random_checkpoint(tmp_path / "out", SMALL, shard_bytes=1)
    assert len(list(out.glob("model-*"))) == len(Checkpoint.open(out).tensors)


def test_a_seed_means_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_random_checkpoint(tmp_path / name, SMALL, seed=7, shard_bytes=100_000)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert first == second
    write_random_checkpoint(tmp_path / "c", SMALL, seed=8, shard_bytes=100_000)
    assert Checkpoint.open(tmp_path / "c").fingerprint() != Checkpoint.open(tmp_path / "a").fingerprint()


def test_a_tensor_depends_on_its_name_alone(tmp_path: Path) -> None:
    shorter = dataclasses.replace(SMALL, num_hidden_layers=4, layer_types=SMALL.layer_types[:4])
    whole = weights(write_random_checkpoint(tmp_path / "whole", SMALL))
    part = weights(write_random_checkpoint(tmp_path / "part", shorter, shard_bytes=50_000))
    assert part.keys() < whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in part.items())
    assert not torch.equal(whole["model.layers.0.mlp.up_proj.weight"], whole["model.layers.1.mlp.up_proj.weight"])


def test_slices_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_checkpoint, "_SLICE", 1000)
    embedding = weights(write_random_checkpoint(tmp_path / "out", SMALL))["model.embed_tokens.weight"]
    assert embedding.shape == (500, 64)
    assert len(embedding.float().flatten()[:5000].view(5, 1000).unique(dim=0)) == 5


def test_embedding_std(tmp_path: Path) -> None:
    default = weights(write_random_checkpoint(tmp_path / "a", SMALL))["model.embed_tokens.weight"]
    small = weights(write_random_checkpoint(tmp_path / "b", SMALL, embedding_std=0.02))["model.embed_tokens.weight"]
    assert default.float().std() == pytest.approx(1.0, rel=0.02)
    assert small.float().std() == pytest.approx(0.02, rel=0.02)


def test_a_sparse_one_has_holes_in_its_products_alone(tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2}
    wide = dataclasses.replace(SMALL, layer_types=SMALL.layer_types[:2], **sizes)
    calls: list[tuple[str, int, int]] = []
    out = write_random_checkpoint(tmp_path / "out", wide, sparse=True, progress=lambda *call: calls.append(call))
    again = write_random_checkpoint(tmp_path / "again", wide, sparse=True)
    assert (out / WEIGHTS_NAME).read_bytes() == (again / WEIGHTS_NAME).read_bytes()
    assert calls[-1][1:] == (2 * num_parameters(wide), 2 * num_parameters(wide))
    for name, tensor in weights(out).items():  # a value that is not finite is refused here
        dense = (tensor != 0).float().mean().item()
        if name.endswith("_proj.weight") and tensor.numel() > 1 << 20:
            assert 1 / 17 < dense < 1 / 15
        elif not name.endswith("_proj.weight"):
            assert dense > 0.99
    assert (out / WEIGHTS_NAME).stat().st_blocks * 512 < num_parameters(wide)


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    write_random_checkpoint(tmp_path / "out", SMALL, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("write", 2 * num_parameters(SMALL), 2 * num_parameters(SMALL))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_tokenizer_files_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json", "evil.py"):
        (source / name).write_text(json.dumps({"processor_class": name}))
    out = write_random_checkpoint(tmp_path / "out", SMALL, tokenizer_from=source)
    assert json.loads((out / "tokenizer.json").read_text()) == {"processor_class": "tokenizer.json"}
    assert "processor_class" not in json.loads((out / "config.json").read_text())
    assert not (out / "evil.py").exists()
    assert [path.name for path in Checkpoint.open(out).sidecars] == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    with pytest.raises(CheckpointError, match="has no tokenizer files"):
        write_random_checkpoint(tmp_path / "other", SMALL, tokenizer_from=tmp_path)
    assert not (tmp_path / "other").exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is not an empty folder; choose another destination"):
        write_random_checkpoint(tmp_path, SMALL)
    with pytest.raises(CheckpointError, match="is a file; choose another destination"):
        write_random_checkpoint(tmp_path / "thesis.txt", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    Checkpoint.open(write_random_checkpoint(tmp_path / "empty", SMALL))


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "out", SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f".out.{'0' * 32}.staging"
    left.mkdir()
    (left / WEIGHTS_NAME).write_bytes(bytes(8 << 20))
    monkeypatch.setattr(random_checkpoint, "free_disk", lambda _: 0)
    Checkpoint.open(write_random_checkpoint(tmp_path / "out", SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_it_cannot_be_put_is_known_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=f"pass a new folder in it: {tmp_path}/NAME"):
        write_random_checkpoint(".", SMALL, progress=lambda *_: pytest.fail("work was done"))


def test_a_disk_too_small(tmp_path: Path) -> None:
    huge = dataclasses.replace(SMALL, vocab_size=2**31, hidden_size=2**20)
    with pytest.raises(CheckpointError, match="GiB are free there; choose another destination, or fewer layers"):
        write_random_checkpoint(tmp_path / "out", huge)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8', and only float32, float16, bfloat16 can be written"),
        ({"shard_bytes": 0}, "the shard size is 0 bytes"),
        ({"embedding_std": 0.0}, "standard deviation is 0"),
        ({"embedding_std": float("nan")}, "standard deviation is nan"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_random_checkpoint(tmp_path / "out", SMALL, **options)  # type: ignore[arg-type]
