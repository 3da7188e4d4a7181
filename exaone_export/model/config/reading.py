"""Every spelling of a family's ``config.json``, read into one `ModelSpec`.

transformers 4 and 5 spell RoPE, the layer pattern and the dtype differently, and programs disagree about some of it.
The rule here: what decides the numbers must be written in the file, and is read as transformers 5 reads it; where its
versions or its documentation differ, it is refused. Only the token ids and the tying of the embeddings fall back
to transformers' defaults. What other programs are told is in `exaone_export.model.config.normalized`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...files import strict_json
from ..dtypes import FLOATS
from ..families import EXAONE_MOE, FAMILIES, Family
from ..spec import FULL_ATTENTION, ModelSpec
from .experts import read_mlp_types, read_sparse_mlp
from .head import read_head, read_kind
from .layers import read_layer_types, read_window
from .rope import read_rope
from .spelling import NESTED_TYPES, respell
from .values import flag, integer, positive, required, show, size, token

__all__ = ["MAX_CONFIG_BYTES", "check_family", "read_spec", "read_spec_folder"]

MAX_CONFIG_BYTES = 1 << 20

_FAMILY = {"exaone4_5_vision": "the vision part of EXAONE 4.5"}

# Far above any model, far below what would exhaust memory before the first check.
_MAX_LAYERS = 4096


def read_spec_folder(folder: str | Path) -> ModelSpec:
    """Read ``folder/config.json``.

    Raises:
        ConfigError: As `read_spec`, or the file is missing, unreadable, too large or not a JSON object.
    """
    path = Path(folder) / "config.json"
    return read_spec(strict_json.read_object(path, max_bytes=MAX_CONFIG_BYTES, error=ConfigError))


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read the content of a ``config.json``, in any spelling of transformers 4 and 5.

    Raises:
        ConfigError: The config contradicts itself, leaves the architecture open, or describes another one.
    """
    config = respell(config)
    family = _read_family(config)
    hidden_size = size(config, "hidden_size")
    heads = size(config, "num_attention_heads")
    num_layers = size(config, "num_hidden_layers", maximum=_MAX_LAYERS)
    window = read_window(config) if family.windows else None
    types = read_layer_types(config, num_layers, window) if family.windows else (FULL_ATTENTION,) * num_layers
    return ModelSpec(
        model_type=family.model_type,
        vocab_size=size(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=size(config, "intermediate_size"),
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=size(config, "num_key_value_heads"),
        head_dim=_head_dim(config, hidden_size, heads),
        rms_norm_eps=positive(config, "rms_norm_eps"),
        max_position_embeddings=size(config, "max_position_embeddings"),
        tie_word_embeddings=flag(config, "tie_word_embeddings"),
        layer_types=types,
        sliding_window=window,
        rope=read_rope(config),
        bos_token_id=token(config.get("bos_token_id", family.bos_token_id), "bos_token_id"),
        eos_token_ids=_eos(config.get("eos_token_id", family.eos_token_id)),
        pad_token_id=token(config.get("pad_token_id", family.pad_token_id), "pad_token_id"),
        dtype=_dtype(config),
        head=read_head(config),
        **_sparse_layers(config, num_layers),
    )


def _sparse_layers(config: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    if config["model_type"] != EXAONE_MOE.model_type:
        return {}
    types = read_mlp_types(config, num_layers)
    return {"mlp_layer_types": types, "sparse_mlp": read_sparse_mlp(config)}


def check_family(config: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a ``config.json`` is of a model that can be exported, whatever else it says."""
    _check_type(required(config, "model_type"), (*FAMILIES, *NESTED_TYPES))
    config = respell(config)
    _check_type(required(config, "model_type"), tuple(FAMILIES))
    read_kind(config)


def _check_type(model_type: Any, known: Collection[str]) -> None:
    if model_type not in known:
        family = _FAMILY.get(model_type) if isinstance(model_type, str) else None
        raise ConfigError(
            f"model_type is {show(model_type)}{f' ({family})' if family else ''}, which has no exporter; choose a "
            f"checkpoint of one of these: {', '.join(known)}."
        )


def _read_family(config: Mapping[str, Any]) -> Family:
    check_family(config)
    family = FAMILIES[config["model_type"]]
    if config.get("hidden_act", "silu") not in ("silu", "swish"):  # transformers' names of one function
        raise ConfigError(
            f"hidden_act is {show(config['hidden_act'])}, but {family.name} uses silu; choose a checkpoint that does."
        )
    if config.get("sliding_windows"):
        raise ConfigError(
            "sliding_windows gives layers windows of their own, which transformers does not read; choose a checkpoint "
            "with one sliding_window."
        )
    if config.get("per_layer_config"):
        raise ConfigError(
            "per_layer_config gives layers sizes of their own, and only one size for all can be exported; choose a "
            "checkpoint without it."
        )
    return family


def _eos(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    tokens = value if isinstance(value, list | tuple) else [value]
    return tuple(integer(token, "eos_token_id", minimum=0) for token in tokens)


def _head_dim(config: Mapping[str, Any], hidden_size: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return size(config, "head_dim")
    if hidden_size % heads:
        raise ConfigError(
            f"head_dim is missing and hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({heads}); "
            f"add head_dim to config.json."
        )
    return hidden_size // heads


def _dtype(config: Mapping[str, Any]) -> str | None:
    # The tensors themselves say what they are, so another type here, or "auto", contradicts nothing.
    found = config.get("torch_dtype") if config.get("dtype") is None else config["dtype"]
    dtype = str(found).removeprefix("torch.")
    return dtype if dtype in FLOATS else None
