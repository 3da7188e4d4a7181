"""Files of EXAONE 3 and 4.5: their own names of tensors, what of them is left aside, and code that never runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exaone_export.errors import CheckpointError
from exaone_export.exporter.checkpoint.checkpoint import WEIGHTS_NAME, Checkpoint
from exaone_export.exporter.checkpoint.random_checkpoint import write_random_checkpoint
from exaone_export.model.config.reading import read_spec
from exaone_export.model.published import PUBLISHED
from exaone_export.model.spec import ModelSpec
from exaone_export.model.stored_names import own_name
from exaone_export.model.tensors import expected_tensors, num_parameters
from tests.exporter.checkpoint.test_prequantized import CASES
from tests.families import family_model, needs_exaone3

CONFIG: dict[str, Any] = {
    "model_type": "exaone",
    "architectures": ["ExaoneForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_exaone.ExaoneConfig"},
    "activation_function": "silu",
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SPEC = read_spec(CONFIG)
NAMES = (
    ("model.embed_tokens.", "transformer.wte."),
    ("model.layers.", "transformer.h."),
    ("model.norm.", "transformer.ln_f."),
    (".self_attn.o_proj.", ".attn.attention.out_proj."),
    (".self_attn.", ".attn.attention."),
    (".input_layernorm.", ".ln_1."),
    (".post_attention_layernorm.", ".ln_2."),
    (".mlp.gate_proj.", ".mlp.c_fc_0."),
    (".mlp.up_proj.", ".mlp.c_fc_1."),
    (".mlp.down_proj.", ".mlp.c_proj."),
)


def original(name: str) -> str:
    """What the published files call a tensor."""
    for own, theirs in NAMES:
        name = name.replace(own, theirs)
    return name


def write(folder: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS_NAME)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def drawn(spec: ModelSpec = SPEC) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in expected_tensors(spec).items()}


@pytest.mark.parametrize("named", [original, str], ids=["published names", "transformers' names"])
def test_tensors_are_found_by_either_name(named: Callable[[str], str], tmp_path: Path) -> None:
    tensors = drawn()
    checkpoint = Checkpoint.open(write(tmp_path / "model", {named(name): each for name, each in tensors.items()}))
    assert checkpoint.spec == SPEC
    assert checkpoint.tensors.keys() == tensors.keys()
    assert all(torch.equal(checkpoint.read(name), each) for name, each in tensors.items())
    assert not checkpoint.left_out


def test_the_code_that_its_config_names_is_not_handed_on(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path / "model", drawn()))
    assert "auto_map" not in checkpoint.config
    assert checkpoint.config["num_hidden_layers"] == 2


def test_other_code_is_refused_as_ever(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", drawn())
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    with pytest.raises(CheckpointError, match="names Python code in auto_map, which is never run"):
        Checkpoint.open(folder)


def test_a_tensor_under_both_names_is_refused(tmp_path: Path) -> None:
    tensors = drawn()
    tensors["transformer.ln_f.weight"] = tensors["model.norm.weight"].clone()
    with pytest.raises(CheckpointError, match=r"has both .*norm.* which name the same weight; remove one of them"):
        Checkpoint.open(write(tmp_path / "model", tensors))


def test_names_of_exaone_3_are_no_names_of_exaone_4() -> None:
    assert own_name("transformer.h.0.mlp.c_proj.weight", "exaone4") == "transformer.h.0.mlp.c_proj.weight"


def test_a_published_quantized_checkpoint_is_read_by_its_own_names(tmp_path: Path) -> None:
    case, tensors, wanted = CASES["awq"], {}, {}
    generator = torch.Generator().manual_seed(0)
    for name, each in drawn().items():
        if not name.endswith("_proj.weight"):
            tensors[original(name)] = each.half()
            continue
        weight = case.make(*each.shape, generator)
        wanted[name] = weight.value()
        module = original(name).removesuffix(".weight")
        tensors |= {f"{module}.{suffix}": part.contiguous() for suffix, part in weight.tensors.items()}
    folder = write(tmp_path / "model", tensors, quantization_config=case.config)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.quantization is not None
    assert checkpoint.quantization.unquantized == ()
    for name, value in wanted.items():
        assert torch.allclose(checkpoint.read(name), value, atol=1e-6)


@needs_exaone3
@pytest.mark.parametrize("head", ["Model", "ForQuestionAnswering", "ForTokenClassification"])
def test_every_head_that_transformers_saves_is_opened(head: str, shared: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(family_model(shared, "exaone", head=head))
    assert checkpoint.spec.architecture == f"Exaone{head}"
    assert checkpoint.tensors.keys() == expected_tensors(checkpoint.spec).keys()


@needs_exaone3
def test_draft_layers_of_exaone_4_5_are_left_aside_and_others_are_refused(
    shared: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(family_model(shared, "exaone4_5"), tmp_path / "model")
    tensors = load_file(folder / WEIGHTS_NAME)
    save_file(tensors | {"mtp.layers.0.norm.weight": torch.ones(3)}, folder / WEIGHTS_NAME)
    checkpoint = Checkpoint.open(folder)
    assert [sentence.partition(" (")[0] for sentence in checkpoint.left_out] == [
        "left out 18 tensors of the vision model",
        "left out 1 tensor of the layers that predict several tokens at once",
    ]
    assert checkpoint.tensors.keys() == expected_tensors(checkpoint.spec).keys()
    save_file(tensors | {"model.audio.weight": torch.ones(3)}, folder / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match=r"has model\.audio\.weight, which its config\.json has no place for"):
        Checkpoint.open(folder)


@needs_exaone3
def test_a_random_checkpoint_of_exaone_3_opens_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    spec = PUBLISHED["3.5-2.4b"].with_layers(range(2))
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 96, "num_attention_heads": 8, "head_dim": 16}
    spec = read_spec(spec.to_config() | sizes)
    out = write_random_checkpoint(tmp_path / "out", spec, dtype="float32")
    model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state, checkpoint = model.state_dict(), Checkpoint.open(out)
    assert all(torch.equal(checkpoint.read(name), state[name]) for name in checkpoint.tensors)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("3.5-2.4b", 2_405_327_360), ("3.5-7.8b", 7_818_448_896), ("3.5-32b", 32_003_200_000)],
)
def test_published_shapes(size: str, parameters: int) -> None:
    assert num_parameters(PUBLISHED[size]) == parameters
    assert read_spec(PUBLISHED[size].to_config()) == PUBLISHED[size]
