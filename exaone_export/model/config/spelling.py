"""From a family's own ``config.json`` to the language model's, in the keys that EXAONE 4 has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from .values import show

__all__ = ["NESTED_TYPES", "respell"]

NESTED_TYPES = ("exaone4_5",)
"""Model types whose language model is described in ``text_config``, beside other models."""

# What the original EXAONE 3 files call a key, and transformers takes for the same.
_EXAONE3_KEYS = {
    "num_layers": "num_hidden_layers",
    "layer_norm_epsilon": "rms_norm_eps",
    "activation_function": "hidden_act",
}
# Of transformers' older versions, whose text config had a type of its own.
_TYPES = {"exaone4_5_text": "exaone4"}
# Beside text_config, these are said of the whole model; tokens, where text_config does not name them.
_OUTSIDE = ("quantization_config", "torch_dtype", "dtype")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_CLASSES = {"Exaone4_5_ForConditionalGeneration": "Exaone4ForCausalLM", "Exaone4_5_Model": "Exaone4Model"}


def respell(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's config, in one set of keys; what is in it already stays.

    Args:
        config: The content of a ``config.json`` of any family.

    Raises:
        ConfigError: Two keys that mean the same disagree, or there is no language model in it.
    """
    if config.get("model_type") in NESTED_TYPES:
        config = _text_config(config)
    found, model_type = {**config}, config.get("model_type")
    if isinstance(model_type, str) and model_type in _TYPES:
        found["model_type"] = _TYPES[model_type]
    return _exaone3(found) if model_type == "exaone" else found


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        raise ConfigError(
            f"text_config is {show(inner)}, and the language model of {config['model_type']} is described there; "
            f"correct config.json."
        )
    tokens = {key: config[key] for key in _TOKENS if config.get(key) is not None}
    outside = {key: config[key] for key in _OUTSIDE if config.get(key) is not None}
    # Said outside alone: what transformers writes inside is a default that its model does not read.
    outside["tie_word_embeddings"] = config.get("tie_word_embeddings", False)
    names = config.get("architectures")
    if isinstance(names, list):
        outside["architectures"] = [_CLASSES.get(name, name) if isinstance(name, str) else name for name in names]
    return {**tokens, **inner, **outside}


def _exaone3(config: dict[str, Any]) -> dict[str, Any]:
    for key, known in _EXAONE3_KEYS.items():
        if key not in config:
            continue
        value = config.pop(key)
        if config.setdefault(known, value) != value:
            raise ConfigError(
                f"{key} is {show(value)} and {known} is {show(config[known])}, which are one number by two names; keep "
                f"one of them in config.json."
            )
    if config.get("num_key_value_heads", 0) is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ConfigError(f"{key} is {show(config[key])}, and no EXAONE has biases; choose such a checkpoint.")
    return config
