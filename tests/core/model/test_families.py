"""Families beside EXAONE 4: how their config.json is read, and that layers are told apart by all that a spec says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from exaone_export.errors import ConfigError
from exaone_export.model.config.head import choose_head
from exaone_export.model.config.normalized import normalize
from exaone_export.model.config.reading import check_family, read_spec
from exaone_export.model.published import PUBLISHED
from exaone_export.model.sparse_mlp import SparseMlp
from exaone_export.model.spec import FULL_ATTENTION, ModelSpec, RopeSpec
from exaone_export.model.tensors import expected_tensors, layer_norms

EXPERTS = SparseMlp(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, num_shared_experts=1)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# As the files of EXAONE 3.5 spell it.
ORIGINAL = {
    "activation_function": "silu",
    "architectures": ["ExaoneForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_exaone.ExaoneConfig"},
    "bos_token_id": 1,
    "embed_dropout": 0.0,
    "eos_token_id": 361,
    "head_dim": 80,
    "hidden_size": 2560,
    "intermediate_size": 7168,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 32768,
    "model_type": "exaone",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_layers": 30,
    "pad_token_id": 0,
    "rope_scaling": LLAMA3,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": 102400,
}
TEXT: dict[str, Any] = {
    "model_type": "exaone4_5_text",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "sliding_window": 8,
    "sliding_window_pattern": "LLLG",
    "rope_parameters": {**LLAMA3, "rope_theta": 1e6},
    "tie_word_embeddings": True,
}
NESTED: dict[str, Any] = {
    "model_type": "exaone4_5",
    "architectures": ["Exaone4_5_ForConditionalGeneration"],
    "image_token_id": 67,
    "text_config": TEXT,
    "vision_config": {"depth": 2, "hidden_size": 24},
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


def dense() -> ModelSpec:
    return dataclasses.replace(PUBLISHED["32b"], num_hidden_layers=4, layer_types=PUBLISHED["32b"].layer_types[:4])


@pytest.mark.parametrize(
    "changes",
    [
        {"mlp_layer_types": ("dense", "sparse", "sparse", "sparse"), "sparse_mlp": EXPERTS},
        {"layer_windows": (128, 4096, 4096, 0)},
    ],
    ids=["a dense layer and sparse ones", "windows of their own"],
)
def test_layers_that_differ_in_experts_or_in_their_windows_are_of_two_kinds(changes: dict[str, Any]) -> None:
    spec = dataclasses.replace(dense(), **changes)
    first, second, third, _ = (layer.kind for layer in spec.layers)
    assert first != second == third
    assert spec.with_layers([2, 0]).layers[1].kind == first


def test_a_layer_of_its_own_window_keeps_it() -> None:
    spec = dataclasses.replace(dense(), layer_windows=(128, 256, 512, 0))
    assert [(layer.window, layer.rotary) for layer in spec.layers] == [
        (128, True),
        (256, True),
        (512, True),
        (0, False),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_windows": (128, 128, 128, 128)}, r"sliding_windows is \[128, 128, 128, 128\], and must have a width"),
        ({"layer_windows": (128,)}, r"sliding_windows is \[128\], and must have a width"),
        ({"mlp_layer_types": ("sparse",) * 4}, "mlp_layer_types has sparse layers, and config.json says nothing"),
        ({"mlp_layer_types": ("sparse",)}, "mlp_layer_types has 1 entries for num_hidden_layers 4"),
        ({"mlp_layer_types": ("mixed",) * 4}, "mlp_layer_types has 'mixed', and only dense and sparse are known"),
    ],
)
def test_contradictions_of_layers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(dense(), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_group": 3}, r"num_experts is 8, which is not a multiple of n_group \(3\)"),
        ({"n_group": 2, "topk_group": 3}, "topk_group is 3, and n_group has 2"),
        ({"n_group": 4, "num_experts_per_tok": 3}, "num_experts_per_tok is 3, and there are 2 experts"),
    ],
)
def test_contradictions_of_experts_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(EXPERTS, **changes)


def test_the_original_files_of_exaone_3_5_are_read() -> None:
    spec = read_spec(ORIGINAL)
    assert spec == ModelSpec(
        model_type="exaone",
        vocab_size=102_400,
        hidden_size=2560,
        intermediate_size=7168,
        num_hidden_layers=30,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=80,
        rms_norm_eps=1e-5,
        max_position_embeddings=32_768,
        layer_types=(FULL_ATTENTION,) * 30,
        sliding_window=None,
        rope=RopeSpec("llama3", 1e6, tuple(sorted((k, v) for k, v in LLAMA3.items() if k != "rope_type"))),
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(361,),
        pad_token_id=0,
        dtype="float32",
    )
    assert (spec.norm_position, spec.qk_norm, spec.architecture) == ("input", False, "ExaoneForCausalLM")
    assert {(layer.window, layer.rotary) for layer in spec.layers} == {(0, True)}


def test_what_is_handed_on_of_exaone_3_has_one_spelling_and_no_code() -> None:
    written = normalize(ORIGINAL)
    assert not written.keys() & {"num_layers", "layer_norm_epsilon", "activation_function", "auto_map", "layer_types"}
    assert (written["num_hidden_layers"], written["rms_norm_eps"], written["hidden_act"]) == (30, 1e-5, "silu")
    assert read_spec(written) == read_spec(ORIGINAL)


def test_transformers_own_names_of_exaone_3_are_read_alike() -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "ExaoneConfig"):
        pytest.skip("transformers has had the class since 5.24")
    theirs = transformers.ExaoneConfig(**read_spec(ORIGINAL).to_config()).to_dict()
    theirs["architectures"] = ["LlamaForCausalLM"]
    assert read_spec(theirs) == read_spec(ORIGINAL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 32}, "num_layers is 30 and num_hidden_layers is 32, which are one number by two names"),
        ({"activation_function": "gelu"}, "hidden_act is 'gelu', but EXAONE 3 uses silu"),
        ({"attention_bias": True}, "attention_bias is True, and no EXAONE has biases"),
        ({"architectures": ["Exaone4ForCausalLM"]}, r"architectures is \['Exaone4ForCausalLM'\], and only ExaoneFor"),
    ],
)
def test_contradictions_of_exaone_3_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_spec(ORIGINAL | changes)


@pytest.mark.parametrize("name", ["ExaoneForSequenceClassification", "LlamaForSequenceClassification"])
def test_heads_of_exaone_3_have_its_name_or_that_of_transformers(name: str) -> None:
    spec = read_spec(ORIGINAL | {"architectures": [name], "num_labels": 3})
    assert (spec.head.kind, spec.architecture) == ("sequence-classification", "ExaoneForSequenceClassification")


def test_the_language_model_of_exaone_4_5_is_an_exaone_4() -> None:
    check_family(NESTED)
    spec = read_spec(NESTED)
    assert (spec.model_type, spec.architecture, spec.dtype) == ("exaone4", "Exaone4ForCausalLM", "bfloat16")
    assert not spec.tie_word_embeddings  # as the outside says
    assert [layer.window for layer in spec.layers] == [8, 8, 8, 0]
    assert not read_spec(
        {key: each for key, each in NESTED.items() if key != "tie_word_embeddings"}
    ).tie_word_embeddings
    assert read_spec(NESTED | {"tie_word_embeddings": True}).tie_word_embeddings
    assert read_spec(NESTED | {"eos_token_id": 7}).eos_token_ids == (7,)
    written = normalize(choose_head(NESTED))
    assert written["model_type"] == "exaone4"
    assert not written.keys() & {"text_config", "vision_config", "image_token_id"}
    assert read_spec(written) == spec


@pytest.mark.parametrize("text", [None, [], "exaone4"])
def test_exaone_4_5_without_a_language_model_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match=r"text_config is .*, and the language model of exaone4_5 is described there"):
        check_family(NESTED | {"text_config": text})


def test_norms_in_front_of_a_projection_are_said_to_be() -> None:
    assert [norm.before for norm in layer_norms(PUBLISHED["1.2b"])] == [None] * 4
    spec = read_spec(ORIGINAL)
    assert [(norm.source, norm.before) for norm in layer_norms(spec)] == [
        ("input_layernorm", "qkv"),
        ("post_attention_layernorm", "gate_up"),
    ]
    assert "model.layers.0.self_attn.q_norm.weight" not in expected_tensors(spec)
