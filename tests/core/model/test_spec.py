"""Every spelling of config.json: read alike, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exaone_export.errors import ConfigError
from exaone_export.model.config.normalized import normalize, overruled
from exaone_export.model.config.reading import read_spec, read_spec_folder
from exaone_export.model.spec import LayerSpec, RopeSpec
from exaone_export.model.tensors import num_parameters

LLLG = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
LG = ["sliding_attention", "full_attention"]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA3_OLD = {"type": "llama3", **{key: value for key, value in LLAMA3.items() if key != "rope_type"}}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
ABSENT = object()

BASE: dict[str, Any] = {
    "model_type": "exaone4",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 16384,
    "sliding_window": 32,
    "layer_types": LLLG * 2,
    "rope_theta": 1000000.0,
}


def config(**changes: Any) -> dict[str, Any]:
    """BASE with changes; ABSENT removes a key."""
    return {key: value for key, value in (BASE | changes).items() if value is not ABSENT}


ACCEPTED = {
    "transformers 4: layer_types": config(),
    "transformers 4: pattern as a number": config(layer_types=ABSENT, sliding_window_pattern=4),
    "transformers 5: rope_parameters": config(rope_theta=ABSENT, rope_parameters={**LLAMA3, "rope_theta": 1e6}),
    "transformers 5: default rope_parameters": config(
        rope_theta=ABSENT, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    ),
    "rope_scaling with rope_type": config(rope_scaling=LLAMA3),
    "rope_scaling with type": config(rope_scaling=LLAMA3_OLD),
    "rope_scaling with both types": config(rope_scaling={**LLAMA3, "type": "llama3"}),
    "rope_scaling null": config(rope_scaling=None),
    "rope_parameters null": config(rope_parameters=None),
    "theta in both places, equal": config(rope_parameters={**LLAMA3, "rope_theta": 1000000}),
    "rope_scaling and rope_parameters, equal": config(rope_scaling=LLAMA3_OLD, rope_parameters=LLAMA3),
    "linear": config(rope_scaling={"type": "linear", "factor": 4}),
    "yarn": config(rope_scaling=YARN),
    "yarn with every number": config(
        rope_scaling={
            **YARN,
            "attention_factor": 1.1,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
            "truncate": False,
        }
    ),
    "layer_types and pattern, equal": config(sliding_window_pattern=4),
    "layer_types and a pattern whose last layer is global by the documentation": config(
        num_hidden_layers=6, layer_types=[*LLLG, "sliding_attention", "full_attention"], sliding_window_pattern=4
    ),
    "layer_types and pattern null": config(sliding_window_pattern=None),
    "layer_types alone, last layer sliding": config(
        num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]
    ),
    "every layer sliding": config(layer_types=["sliding_attention"] * 8),
    "window of one": config(sliding_window=1),
    "no window, layer_types": config(sliding_window=None, layer_types=["full_attention"] * 8),
    "no window, pattern 0 as transformers 5 saves it": config(
        sliding_window=None, layer_types=["full_attention"] * 8, sliding_window_pattern=0
    ),
    "head_dim absent": config(head_dim=ABSENT),
    "head_dim null": config(head_dim=None),
    "head_dim not hidden_size over heads": config(head_dim=32),
    "torch_dtype": config(torch_dtype="bfloat16"),
    "dtype": config(dtype="float16"),
    "dtype and torch_dtype, equal": config(dtype="bfloat16", torch_dtype="torch.bfloat16"),
    "eos list": config(eos_token_id=[361, 2], bos_token_id=1, pad_token_id=0),
    "eos null": config(eos_token_id=None, bos_token_id=None),
    "tied": config(tie_word_embeddings=True),
    "architectures": config(architectures=["Exaone4ForCausalLM"]),
    "architectures null": config(architectures=None),
    "dtype beside another torch_dtype": config(dtype="bfloat16", torch_dtype="float16"),
    "rope_scaling empty": config(rope_theta=ABSENT, rope_scaling={}, rope_parameters={**LLAMA3, "rope_theta": 1e6}),
    "rope_type beside another type": config(rope_scaling={**LLAMA3, "type": "yarn"}),
    "half a rotation, of which the default type makes no use": config(partial_rotary_factor=0.5),
    "biases that the model does not have": config(attention_bias=True, mlp_bias=True),
    "silu by its other name": config(hidden_act="swish"),
    "keys that say nothing of the numbers": config(
        use_cache=True,
        attention_dropout=0.1,
        initializer_range=0.02,
        auto_map={"AutoConfig": "evil.Config"},
        attention_bias=False,
        partial_rotary_factor=1.0,
    ),
}

# What stands beside what decides, as transformers' own save_pretrained and programs that edit its files leave it.
OVERRULED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "layer_types against a number": (
        config(sliding_window_pattern=2),
        ("sliding_window_pattern 2 is ignored, as transformers does: layer_types decides",),
    ),
    "layer_types of a pruned model": (
        config(num_hidden_layers=6, layer_types=[*LLLG[1:], *LLLG[1:]], sliding_window_pattern=4),
        ("sliding_window_pattern 4 is ignored, as transformers does: layer_types decides",),
    ),
    "layer_types sliding where the pattern is global at the end": (
        config(layer_types=[*LLLG, *["sliding_attention"] * 4], sliding_window_pattern=4),
        ("sliding_window_pattern 4 is ignored, as transformers does: layer_types decides",),
    ),
    "layer_types against a text": (
        config(sliding_window_pattern="LLGL"),
        ("sliding_window_pattern 'LLGL' is ignored, as transformers does: layer_types decides",),
    ),
    "layer_types against letters of another meaning": (
        config(sliding_window_pattern="xyz"),
        ("sliding_window_pattern 'xyz' is ignored, as transformers does: layer_types decides",),
    ),
    "rope twice": (
        config(rope_scaling=LLAMA3, rope_parameters=LLAMA3 | {"factor": 8.0}),
        ("rope_parameters is ignored, as transformers does: rope_scaling decides",),
    ),
    "rope twice with thetas": (
        config(
            rope_theta=ABSENT, rope_scaling=LLAMA3 | {"rope_theta": 5.0}, rope_parameters=LLAMA3 | {"rope_theta": 6.0}
        ),
        ("rope_parameters is ignored, as transformers does: rope_scaling decides",),
    ),
    "a number that the type does not use": (config(rope_scaling=LLAMA3 | {"finetuned": True}), ()),
}

# transformers 5.23 raises on these; what they mean is settled by the documentation and by every other reader.
ACCEPTED_HERE_ONLY = {
    "pattern as text": (config(layer_types=ABSENT, sliding_window_pattern="LLLG"), LLLG * 2),
    "pattern as text, cut at a global layer": (
        config(layer_types=ABSENT, sliding_window_pattern="LGLLG", num_hidden_layers=7),
        [*LG, "sliding_attention", *LG, *LG],
    ),
    "layer_types and pattern as text": (config(sliding_window_pattern="LLLG"), LLLG * 2),
    "no window, no pattern": (config(layer_types=ABSENT, sliding_window=None), ["full_attention"] * 8),
    "no window, pattern null": (
        config(layer_types=ABSENT, sliding_window=None, sliding_window_pattern=None),
        ["full_attention"] * 8,
    ),
    "no window, pattern as text": (
        config(layer_types=ABSENT, sliding_window=None, sliding_window_pattern="LLLG"),
        ["full_attention"] * 8,
    ),
}

REFUSED = {
    "another model": (
        config(model_type="llama"),
        "model_type is 'llama', which has no exporter; "
        "choose a checkpoint of one of these: exaone4, exaone, exaone_moe, exaone4_5.",
    ),
    "model_type absent": (
        config(model_type=ABSENT),
        "model_type is missing, and it decides the architecture; add it to config.json.",
    ),
    "model_type a list": (config(model_type=["exaone4"]), None),
    "vision": (
        config(model_type="exaone4_5", text_config={}),
        "model_type is missing, and it decides the architecture; add it to config.json.",
    ),
    "experts": (
        config(model_type="exaone_moe"),
        "first_k_dense_replace is missing, and it decides the architecture; add it to config.json.",
    ),
    "a class that transformers does not have": (
        config(architectures=["Exaone4ForMultipleChoice"]),
        "architectures is ['Exaone4ForMultipleChoice'], and only Exaone4ForCausalLM, Exaone4Model, "
        "Exaone4ForSequenceClassification, Exaone4ForTokenClassification, Exaone4ForQuestionAnswering can be exported; "
        "choose a checkpoint of one of these.",
    ),
    "architectures a text": (config(architectures="Exaone4Model"), None),
    "architectures a number": (config(architectures=4), None),
    "layers of their own sizes": (
        config(per_layer_config={"1": {"intermediate_size": 48}}),
        "per_layer_config gives layers sizes of their own, and only one size for all can be exported; choose a "
        "checkpoint without it.",
    ),
    "activation": (
        config(hidden_act="gelu"),
        "hidden_act is 'gelu', but EXAONE 4 uses silu; choose a checkpoint that does.",
    ),
    "layer_types too short": (
        config(layer_types=LLLG),
        "layer_types has 4 entries for num_hidden_layers 8; give config.json one entry per layer.",
    ),
    "unknown layer type": (
        config(layer_types=[*LLLG, *LLLG[:3], "chunked_attention"]),
        "layer_types has 'chunked_attention', and only sliding_attention and full_attention are known; correct "
        "config.json.",
    ),
    "layer_types no list": (config(layer_types="LLLG"), None),
    "layer_types of numbers": (config(layer_types=[1] * 8), None),
    "pattern ends in a sliding layer": (
        config(layer_types=ABSENT, sliding_window_pattern=4, num_hidden_layers=6),
        "sliding_window_pattern 4 over 6 layers ends in a sliding layer, which some programs read as a global one; "
        "add layer_types to config.json.",
    ),
    "text pattern ends in a sliding layer": (
        config(layer_types=ABSENT, sliding_window_pattern="LLGL"),
        "sliding_window_pattern 'LLGL' over 8 layers ends in a sliding layer, which some programs read as a global "
        "one; add layer_types to config.json.",
    ),
    "pattern of other letters": (config(layer_types=ABSENT, sliding_window_pattern="LLLg"), None),
    "pattern empty": (config(layer_types=ABSENT, sliding_window_pattern=""), None),
    "pattern zero": (config(layer_types=ABSENT, sliding_window_pattern=0), None),
    "pattern true": (config(sliding_window_pattern=True), None),
    "pattern true, no window": (
        config(layer_types=ABSENT, sliding_window=None, sliding_window_pattern=True),
        "sliding_window_pattern is True, not a number, a text such as 'LLLG', or null; correct config.json.",
    ),
    "pattern a list": (config(sliding_window_pattern=["L"]), None),
    "window without layers for it": (
        config(layer_types=ABSENT),
        "sliding_window is 32, but neither layer_types nor sliding_window_pattern says which layers it is for; add "
        "layer_types to config.json.",
    ),
    "window that no layer uses": (
        config(layer_types=["full_attention"] * 8),
        "sliding_window is 32 but no layer is sliding_attention, so no layer would have a positional encoding; set "
        "sliding_window to null in config.json for RoPE on every layer.",
    ),
    "sliding layers without a window": (
        config(sliding_window=None),
        "layer_types has sliding_attention but sliding_window is null; give config.json the window's width.",
    ),
    "window absent": (
        config(sliding_window=ABSENT),
        "sliding_window is missing, and it decides the architecture; add it to config.json.",
    ),
    "window zero": (
        config(sliding_window=0),
        "sliding_window is 0, not an integer from 1 to 2147483648; correct config.json.",
    ),
    "window negative": (config(sliding_window=-4), None),
    "window a float": (config(sliding_window=32.0), None),
    "window true": (config(sliding_window=True), None),
    "heads": (
        config(num_key_value_heads=3),
        "num_attention_heads is 4, which is not a multiple of num_key_value_heads (3); correct config.json.",
    ),
    "odd head": (
        config(head_dim=15),
        "head_dim is 15, but RoPE turns pairs and needs an even one; correct config.json.",
    ),
    "head_dim underivable": (
        config(head_dim=ABSENT, hidden_size=66),
        "head_dim is missing and hidden_size (66) is not a multiple of num_attention_heads (4); add head_dim to "
        "config.json.",
    ),
    "hidden_size absent": (
        config(hidden_size=ABSENT),
        "hidden_size is missing, and it decides the architecture; add it to config.json.",
    ),
    "hidden_size text": (
        config(hidden_size="64"),
        "hidden_size is '64', not an integer from 1 to 2147483648; correct config.json.",
    ),
    "a million layers": (config(num_hidden_layers=10**6, layer_types=ABSENT, sliding_window=None), None),
    "epsilon zero": (config(rms_norm_eps=0), "rms_norm_eps is 0, not a positive finite number; correct config.json."),
    "epsilon NaN": (config(rms_norm_eps=math.nan), None),
    "epsilon infinite": (config(rms_norm_eps=math.inf), None),
    "epsilon true": (config(rms_norm_eps=True), None),
    "tied null": (config(tie_word_embeddings=None), None),
    "eos outside": (
        config(eos_token_id=[2, 512]),
        "eos_token_id is 512, outside the vocabulary of 512; correct config.json.",
    ),
    "bos negative": (config(bos_token_id=-1), None),
    "eos text": (config(eos_token_id="[|endofturn|]"), None),
    "theta absent": (
        config(rope_theta=ABSENT),
        "rope_theta is missing, and it decides the architecture; add it to config.json.",
    ),
    "theta twice": (
        config(rope_parameters={**LLAMA3, "rope_theta": 10000.0}),
        "rope_theta is 1e+06 and rope_parameters.rope_theta is 10000; keep one of them in config.json.",
    ),
    "theta in what rope_scaling replaces": (
        config(rope_theta=ABSENT, rope_scaling=LLAMA3, rope_parameters=LLAMA3 | {"rope_theta": 6.0}),
        "rope_theta stands in rope_parameters, which rope_scaling replaces; remove the one of the two that is stale "
        "from config.json.",
    ),
    "theta NaN": (config(rope_theta=math.nan), None),
    "rope dynamic": (
        config(rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
        "rope_type is 'dynamic', but the frequencies of an exported graph are constants, so only default, linear, "
        "llama3, yarn can be exported; use a checkpoint with one of these.",
    ),
    "rope longrope": (
        config(rope_scaling={"type": "longrope", "short_factor": [1], "long_factor": [1]}),
        "rope_type is 'longrope', but the frequencies of an exported graph are constants, so only default, linear, "
        "llama3, yarn can be exported; use a checkpoint with one of these.",
    ),
    "rope type no text": (config(rope_scaling={"rope_type": 3}), None),
    "rope numbers without a type": (
        config(rope_scaling={"factor": 2.0}),
        "rope_scaling has 'factor' and no rope_type that it is for; add rope_type to config.json.",
    ),
    "rope incomplete": (
        config(rope_scaling={"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0}),
        "rope_scaling of type llama3 lacks high_freq_factor, original_max_position_embeddings; add it to config.json.",
    ),
    "rope factor true": (config(rope_scaling=LLAMA3 | {"factor": True}), None),
    "rope factor NaN": (config(rope_scaling=LLAMA3 | {"factor": math.nan}), None),
    "rope low above high": (
        config(rope_scaling=LLAMA3 | {"low_freq_factor": 4.0}),
        "rope_scaling.low_freq_factor (4) is not below high_freq_factor (4); correct config.json.",
    ),
    "rope original length a fraction": (config(rope_scaling=LLAMA3 | {"original_max_position_embeddings": 0.5}), None),
    "rope original length twice": (
        config(rope_scaling=LLAMA3, original_max_position_embeddings=4096),
        "original_max_position_embeddings is 4096 and, in rope_scaling, 8192; keep one of them in config.json.",
    ),
    "rope nested by layer type": (
        config(rope_parameters={"sliding_attention": LLAMA3, "full_attention": {"rope_type": "default"}}),
        "rope_parameters is nested by layer type, but EXAONE has one RoPE for all rotary layers; make it flat in "
        "config.json.",
    ),
    "rope a text": (config(rope_scaling="llama3"), None),
    "partial rotation": (
        config(rope_scaling=LLAMA3 | {"partial_rotary_factor": 0.5}),
        "partial_rotary_factor is 0.5, but EXAONE rotates whole heads; choose such a checkpoint.",
    ),
    "yarn truncate": (config(rope_scaling=YARN | {"truncate": 1}), None),
}


@pytest.mark.parametrize("name", [*ACCEPTED, *OVERRULED])
def test_read_as_transformers_reads_it(name: str) -> None:
    from transformers import Exaone4Config

    given = ACCEPTED[name] if name in ACCEPTED else OVERRULED[name][0]
    spec = read_spec(given)
    theirs = Exaone4Config(**json.loads(json.dumps(given)))
    assert list(spec.layer_types) == theirs.layer_types
    assert spec.sliding_window == theirs.sliding_window
    unread = ("type", "partial_rotary_factor", "finetuned")
    rope = {key: value for key, value in theirs.rope_parameters.items() if key not in unread}
    assert spec.rope.to_config() == rope
    assert spec.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    eos = theirs.eos_token_id
    assert spec.eos_token_ids == (() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,))
    assert (spec.bos_token_id, spec.pad_token_id) == (theirs.bos_token_id, theirs.pad_token_id)
    assert spec.tie_word_embeddings == theirs.tie_word_embeddings
    assert spec.dtype == (None if theirs.dtype is None else str(theirs.dtype).removeprefix("torch."))


@pytest.mark.parametrize("name", OVERRULED)
def test_what_is_overruled_is_said(name: str) -> None:
    given, sentences = OVERRULED[name]
    assert overruled(given) == sentences


def test_what_agrees_is_not_overruled() -> None:
    assert overruled(config(sliding_window_pattern=4, rope_scaling=LLAMA3_OLD, rope_parameters=LLAMA3)) == ()


@pytest.mark.parametrize("dtype", ["float64", "float8_e4m3fn", "auto"])
def test_a_type_that_only_the_tensors_can_tell(dtype: str) -> None:
    assert read_spec(config(dtype=dtype)).dtype is None


@pytest.mark.parametrize("name", ACCEPTED_HERE_ONLY)
def test_read_where_transformers_cannot(name: str) -> None:
    given, layer_types = ACCEPTED_HERE_ONLY[name]
    assert list(read_spec(given).layer_types) == layer_types


@pytest.mark.parametrize("given", [*ACCEPTED.values(), *(given for given, _ in ACCEPTED_HERE_ONLY.values())])
def test_to_config_comes_back_equal_directly_and_through_transformers(given: dict[str, Any], tmp_path: Path) -> None:
    from transformers import Exaone4Config

    spec = read_spec(given)
    assert read_spec(json.loads(json.dumps(spec.to_config()))) == spec
    Exaone4Config(**spec.to_config()).save_pretrained(tmp_path)
    assert read_spec_folder(tmp_path) == spec


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str) -> None:
    given, message = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        read_spec(given)
    text = str(caught.value)
    if message is not None:
        assert text == message
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 300


def test_hybrid_layers_rotate_where_they_are_local() -> None:
    layers = read_spec(config()).layers
    assert layers[:4] == (
        LayerSpec(0, 32, True), LayerSpec(1, 32, True), LayerSpec(2, 32, True), LayerSpec(3, 0, False),
    )  # fmt: skip
    assert [layer.is_global for layer in layers] == [False, False, False, True] * 2


def test_without_a_window_every_layer_rotates() -> None:
    spec = read_spec(config(sliding_window=None, layer_types=ABSENT))
    assert spec.layers == tuple(LayerSpec(index, 0, True) for index in range(8))


def test_layers_are_of_one_kind_where_all_but_the_index_is_alike() -> None:
    spec = read_spec(config())
    kinds = [layer.kind for layer in spec.layers]
    assert len(set(kinds)) == len(set(spec.layer_types)) == 2
    chosen = spec.with_layers([kinds.index(kind) for kind in dict.fromkeys(kinds)])
    assert [layer.kind for layer in chosen.layers] == list(dict.fromkeys(kinds))
    assert [layer.index for layer in chosen.layers] == [0, 1]


@pytest.mark.parametrize("tied", [False, True])
def test_num_parameters_is_what_transformers_makes(tied: bool) -> None:
    from transformers import Exaone4Config, Exaone4ForCausalLM

    spec = read_spec(config(tie_word_embeddings=tied))
    model = Exaone4ForCausalLM(Exaone4Config(**spec.to_config()))
    assert num_parameters(spec) == sum(parameter.numel() for parameter in model.parameters())


def test_replace_is_checked() -> None:
    spec = read_spec(config())
    shorter = dataclasses.replace(spec, num_hidden_layers=4, layer_types=spec.layer_types[:4])
    assert len(shorter.layers) == 4
    with pytest.raises(ConfigError, match="layer_types has 8 entries for num_hidden_layers 4"):
        dataclasses.replace(spec, num_hidden_layers=4)
    with pytest.raises(ConfigError, match="rope_type is 'dynamic'"):
        dataclasses.replace(spec, rope=RopeSpec("dynamic", 1e6))


def test_specs_are_values() -> None:
    assert hash(read_spec(config())) == hash(read_spec(config(sliding_window_pattern=4)))


@pytest.mark.parametrize(
    "given",
    [
        *ACCEPTED.values(),
        *(given for given, _ in (*ACCEPTED_HERE_ONLY.values(), *OVERRULED.values())),
        config(attn_implementation="flash_attention_2"),
        config(_attn_implementation="flash_attention_2", quantization_config={"quant_method": "gptq"}, use_cache=False),
    ],
)
def test_a_normalized_config_is_read_by_transformers_as_it_was_read_here(given: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoConfig, Exaone4Config, Exaone4ForCausalLM

    given = given | {"name": "of a user's program", "transformers_version": "4.54.0"}
    spec, normalized = read_spec(given), normalize(given)
    (tmp_path / "config.json").write_text(json.dumps(normalized))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert read_spec(normalized) == read_spec_folder(tmp_path) == spec
    assert theirs.rope_parameters == spec.rope.to_config()
    assert (tuple(theirs.layer_types), theirs.sliding_window) == (spec.layer_types, spec.sliding_window)
    assert (theirs.bos_token_id, theirs.pad_token_id) == (spec.bos_token_id, spec.pad_token_id)
    assert theirs.name == "of a user's program"
    assert theirs.use_cache == given.get("use_cache", True)
    small = Exaone4Config(**{**normalized, "vocab_size": 512, "layer_types": LG, "num_hidden_layers": 2})
    if spec.sliding_window is not None:
        Exaone4ForCausalLM(small)  # on a machine without the kernels that the file asks for
    assert not normalized.keys() & {"rope_theta", "rope_scaling", "torch_dtype", "quantization_config"}


def _folder(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "config.json").write_bytes(data)
    return tmp_path


def test_folder(tmp_path: Path) -> None:
    assert read_spec_folder(_folder(tmp_path, json.dumps(BASE).encode())) == read_spec(BASE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"model_type": "exaone4", "model_type": "exaone4"}', "gives the key 'model_type' twice; correct the file."),
        (b'{"a": {"b": 1, "b": 2}}', "gives the key 'b' twice; correct the file."),
        (b"[1, 2]", "holds a list, not an object; correct the file."),
        (b"null", "holds a NoneType, not an object; correct the file."),
        (b'{"rms_norm_eps": NaN}', "contains NaN, which is not JSON; correct the file."),
        (b'{"rms_norm_eps": -Infinity}', "contains -Infinity, which is not JSON; correct the file."),
        (b'{"a": ' * 40 + b"1" + b"}" * 40, "is nested deeper than 32 levels; correct the file."),
        (b'{"a": ' + b"[" * 200_000, "is nested deeper than 32 levels; correct the file."),
        (b"{" + b" " * (1 << 20) + b"}", "has 1048578 bytes, and at most 1048576 are read; put a valid file there."),
        (b"", "is not valid JSON ("),
        (b"{", "is not valid JSON ("),
        (b"\xff{}", "is not valid JSON ("),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON ("),
    ],
    ids=lambda value: value[:24].decode(errors="replace").strip() if isinstance(value, bytes) else "",
)
def test_folder_refuses_json_that_two_programs_may_read_differently(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_spec_folder(_folder(tmp_path, data))
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'} {message}")


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json does not exist; check the path and its permissions\.$"):
        read_spec_folder(tmp_path)


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_spec_folder(tmp_path)


def test_importing_the_core_loads_nothing_heavy() -> None:
    code = (
        "import sys, exaone_export.model.spec, exaone_export.model.config.reading, exaone_export.artifact.reader;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
