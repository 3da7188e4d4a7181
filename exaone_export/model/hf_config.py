"""Every spelling of EXAONE 4's ``config.json``, read into one `ModelSpec`.

transformers 4 and 5 spell RoPE, the layer pattern and the dtype differently, and programs disagree about some of it.
The rule here: what decides the numbers must be written in the file, and is read as transformers 5 reads it; where its
versions or its documentation differ, it is refused. Only the token ids and the tying of the word embeddings fall back
to transformers' defaults. What other programs are told is in `exaone_export.model.normalized_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import strict_json
from .spec import FULL_ATTENTION, LAYER_TYPES, SLIDING_ATTENTION, STATIC_ROPE_TYPES, ModelSpec, RopeSpec

__all__ = ["MAX_CONFIG_BYTES", "check_family", "read", "read_folder"]

MAX_CONFIG_BYTES = 1 << 20
MODEL_TYPES = ("exaone4",)
ARCHITECTURE = "Exaone4ForCausalLM"
DTYPES = ("float32", "bfloat16", "float16")

_FAMILY = {
    "exaone": "EXAONE 3.0, 3.5 or Deep",
    "exaone4_5": "EXAONE 4.5",
    "exaone4_5_text": "the text part of EXAONE 4.5",
    "exaone_moe": "K-EXAONE",
}

# Far above any model, far below what would exhaust memory before the first check.
_MAX_SIZE = 1 << 31
_MAX_LAYERS = 4096

# transformers.Exaone4Config's values for absent keys, the same in transformers 4.54 and 5.23.
_DEFAULT_BOS, _DEFAULT_EOS = 0, 2

# Scaling numbers of each rope type: required, then optional.
_ROPE_PARAMETERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "default": (frozenset(), frozenset()),
    "linear": (frozenset({"factor"}), frozenset()),
    "llama3": (
        frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
        frozenset(),
    ),
    "yarn": (
        frozenset({"factor", "original_max_position_embeddings"}),
        frozenset({"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}),
    ),
}
_ORIGINAL_LENGTH = "original_max_position_embeddings"


def read_folder(folder: Path) -> ModelSpec:
    """Read ``folder/config.json``.

    Raises:
        ConfigError: As `read`, or the file is missing, unreadable, too large or not a JSON object.
    """
    return read(strict_json.read_object(folder / "config.json", max_bytes=MAX_CONFIG_BYTES, error=ConfigError))


def read(config: Mapping[str, Any]) -> ModelSpec:
    """Read the content of a ``config.json``.

    Raises:
        ConfigError: The config contradicts itself, leaves the architecture open, or describes another one.
    """
    _refuse_other_architectures(config)
    hidden_size = _size(config, "hidden_size")
    heads = _size(config, "num_attention_heads")
    num_layers = _size(config, "num_hidden_layers", maximum=_MAX_LAYERS)
    window = _window(config)
    return ModelSpec(
        model_type=config["model_type"],
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_size(config, "intermediate_size"),
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=_size(config, "num_key_value_heads"),
        head_dim=_head_dim(config, hidden_size, heads),
        rms_norm_eps=_positive(config, "rms_norm_eps"),
        max_position_embeddings=_size(config, "max_position_embeddings"),
        tie_word_embeddings=_flag(config, "tie_word_embeddings"),
        layer_types=_layer_types(config, num_layers, window),
        sliding_window=window,
        rope=_rope(config),
        bos_token_id=_token(config.get("bos_token_id", _DEFAULT_BOS), "bos_token_id"),
        eos_token_ids=_eos(config.get("eos_token_id", _DEFAULT_EOS)),
        pad_token_id=_token(config.get("pad_token_id"), "pad_token_id"),
        dtype=_dtype(config),
    )


def check_family(config: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a ``config.json`` is of a model that can be exported, whatever else it says."""
    model_type = _required(config, "model_type")
    if model_type not in MODEL_TYPES:
        family = _FAMILY.get(model_type) if isinstance(model_type, str) else None
        raise ConfigError(
            f"model_type is {_show(model_type)}{f' ({family})' if family else ''}, which has no exporter; use an "
            f"{' or '.join(MODEL_TYPES)} checkpoint."
        )
    architectures = config.get("architectures") or [ARCHITECTURE]
    if ARCHITECTURE not in (architectures if isinstance(architectures, list) else [architectures]):
        raise ConfigError(
            f"architectures is {_show(architectures)}, and only {ARCHITECTURE}, the language model, can be exported; "
            f"choose a checkpoint of that."
        )


def _refuse_other_architectures(config: Mapping[str, Any]) -> None:
    check_family(config)
    if config.get("hidden_act", "silu") not in ("silu", "swish"):  # transformers' names of one function
        raise ConfigError(
            f"hidden_act is {_show(config['hidden_act'])}, but EXAONE 4 uses silu; choose a checkpoint that does."
        )
    if config.get("per_layer_config"):
        raise ConfigError(
            "per_layer_config gives layers sizes of their own, and only one size for all can be exported; choose a "
            "checkpoint without it."
        )


# Numbers


def _show(value: Any) -> str:
    """A value for a message: short, whatever the file says."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _required(config: Mapping[str, Any], key: str) -> Any:
    if key not in config:
        raise ConfigError(f"{key} is missing, and it decides the architecture; add it to config.json.")
    return config[key]


def _integer(value: Any, name: str, *, minimum: int = 1, maximum: int = _MAX_SIZE) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ConfigError(f"{name} is {_show(value)}, not an integer from {minimum} to {maximum}; correct config.json.")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e12:
        raise ConfigError(f"{name} is {_show(value)}, not a positive finite number; correct config.json.")
    return float(value)


def _size(config: Mapping[str, Any], key: str, *, maximum: int = _MAX_SIZE) -> int:
    return _integer(_required(config, key), key, maximum=maximum)


def _positive(config: Mapping[str, Any], key: str) -> float:
    return _number(_required(config, key), key)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {_show(value)}, not true or false; correct config.json.")
    return value


def _token(value: Any, name: str) -> int | None:
    return None if value is None else _integer(value, name, minimum=0)


def _eos(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    tokens = value if isinstance(value, list | tuple) else [value]
    return tuple(_integer(token, "eos_token_id", minimum=0) for token in tokens)


def _head_dim(config: Mapping[str, Any], hidden_size: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return _size(config, "head_dim")
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
    return dtype if dtype in DTYPES else None


# Layers


def _window(config: Mapping[str, Any]) -> int | None:
    # An absent key is 4096 to transformers and "no window" to others, and it decides which layers rotate.
    value = _required(config, "sliding_window")
    return None if value is None else _integer(value, "sliding_window")


def _layer_types(config: Mapping[str, Any], num_layers: int, window: int | None) -> tuple[str, ...]:
    stated, pattern = config.get("layer_types"), config.get("sliding_window_pattern")
    if isinstance(pattern, bool) or not isinstance(pattern, int | str | None):
        raise ConfigError(
            f"sliding_window_pattern is {_show(pattern)}, not a number, a text such as 'LLLG', or null; correct "
            f"config.json."
        )
    if stated is None:
        return _layer_types_from_pattern(pattern, num_layers, window)
    if not isinstance(stated, list | tuple) or not all(isinstance(layer_type, str) for layer_type in stated):
        raise ConfigError(
            f"layer_types is {_show(stated)}, not a list of {' and '.join(LAYER_TYPES)}; correct config.json."
        )
    return tuple(stated)  # whatever the pattern says: transformers saves its default beside them


def _pattern(pattern: int | str | None, num_layers: int, window: int | None) -> tuple[str, ...] | None:
    """What ``sliding_window_pattern`` says of each layer; None if it says nothing."""
    if pattern is None or window is None:
        return None  # Without a window every reader ignores the pattern; transformers then writes 0 there.
    if isinstance(pattern, str):
        if not pattern or set(pattern) - set("LG"):
            raise ConfigError(
                f"sliding_window_pattern is {_show(pattern)}, not a text of L and G; correct config.json."
            )
        return tuple(
            SLIDING_ATTENTION if pattern[index % len(pattern)] == "L" else FULL_ATTENTION for index in range(num_layers)
        )
    every = _integer(pattern, "sliding_window_pattern")
    return tuple(FULL_ATTENTION if (index + 1) % every == 0 else SLIDING_ATTENTION for index in range(num_layers))


def _layer_types_from_pattern(written: int | str | None, num_layers: int, window: int | None) -> tuple[str, ...]:
    if window is None:
        return (FULL_ATTENTION,) * num_layers
    pattern = _pattern(written, num_layers, window)
    if pattern is None:
        raise ConfigError(
            f"sliding_window is {window}, but neither layer_types nor sliding_window_pattern says which layers it is "
            f"for; add layer_types to config.json."
        )
    if pattern[-1] != FULL_ATTENTION:
        # transformers documents a global last layer; its code, and other readers, do not make one of every pattern.
        raise ConfigError(
            f"sliding_window_pattern {_show(written)} over {num_layers} layers ends in a sliding layer, which some "
            f"programs read as a global one; add layer_types to config.json."
        )
    return pattern


# RoPE


def _rope(config: Mapping[str, Any]) -> RopeSpec:
    # transformers 4 knows rope_scaling alone, and 5 puts it, unless it is empty, in the place of rope_parameters.
    key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    source = config.get(key) or {}
    _check_rope_source(key, source)
    return _rope_reading(key, source, config, _theta(config, key, source))


def _check_rope_source(key: str, parameters: Any) -> None:
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{key} is {_show(parameters)}, not an object; correct config.json.")
    if any(layer_type in parameters for layer_type in LAYER_TYPES):
        raise ConfigError(
            f"{key} is nested by layer type, but EXAONE 4 has one RoPE for all rotary layers; make it flat in "
            f"config.json."
        )


def _theta(config: Mapping[str, Any], key: str, source: Mapping[str, Any]) -> float:
    # transformers 5 prefers the one inside, and 4 knows the one outside alone.
    inside, outside = f"{key}.rope_theta", "rope_theta"
    values = {
        name: _number(value, name)
        for name, value in ((outside, config.get("rope_theta")), (inside, source.get("rope_theta")))
        if value is not None
    }
    if len(set(values.values())) > 1:
        raise ConfigError(
            f"rope_theta is {values[outside]:g} and {inside} is {values[inside]:g}; keep one of them in config.json."
        )
    if not values:
        other = config.get("rope_parameters")
        if isinstance(other, Mapping) and other.get("rope_theta") is not None:
            raise ConfigError(
                "rope_theta stands in rope_parameters, which rope_scaling replaces; remove the one of the two that is "
                "stale from config.json."
            )
        raise ConfigError("rope_theta is missing, and it decides the architecture; add it to config.json.")
    return next(iter(values.values()))


def _rope_reading(key: str, source: Mapping[str, Any], config: Mapping[str, Any], theta: float) -> RopeSpec:
    stated = source.get("rope_type") or source.get("type")  # transformers prefers the first
    rope_type = "default" if stated is None else str(stated)
    if rope_type not in STATIC_ROPE_TYPES:
        return RopeSpec(rope_type, theta)  # Raises, naming the type.
    for place in (source, config):
        # Of whole heads, transformers' default type makes no use of it, and the others fail.
        if place.get("partial_rotary_factor") not in (None, 1, 1.0) and rope_type != "default":
            raise ConfigError(
                f"partial_rotary_factor is {_show(place['partial_rotary_factor'])}, but EXAONE 4 rotates whole heads; "
                f"choose such a checkpoint."
            )

    numbers = {
        name: value
        for name, value in source.items()
        if value is not None and name not in ("rope_type", "type", "rope_theta", "partial_rotary_factor")
    }
    required, optional = _ROPE_PARAMETERS[rope_type]
    outside = config.get(_ORIGINAL_LENGTH)  # transformers prefers this one to the one inside.
    if outside is not None and _ORIGINAL_LENGTH in required:
        inside = numbers.setdefault(_ORIGINAL_LENGTH, outside)
        if inside != outside:
            raise ConfigError(
                f"{_ORIGINAL_LENGTH} is {_show(outside)} and, in {key}, {_show(inside)}; keep one of them in "
                f"config.json."
            )
    if missing := sorted(required - numbers.keys()):
        raise ConfigError(f"{key} of type {rope_type} lacks {', '.join(missing)}; add it to config.json.")
    unused = sorted(numbers.keys() - required - optional)
    if unused and stated is None:
        raise ConfigError(f"{key} has {unused[0]!r} and no rope_type that it is for; add rope_type to config.json.")
    parameters = tuple((name, _rope_number(f"{key}.{name}", numbers[name])) for name in sorted(numbers.keys() - unused))
    rope = RopeSpec(rope_type, theta, parameters)
    for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
        if low in rope.scaling and high in rope.scaling and rope.scaling[low] >= rope.scaling[high]:
            raise ConfigError(
                f"{key}.{low} ({rope.scaling[low]:g}) is not below {high} ({rope.scaling[high]:g}); correct "
                f"config.json."
            )
    return rope


def _rope_number(name: str, value: Any) -> float:
    if name.endswith(".truncate"):
        if not isinstance(value, bool):
            raise ConfigError(f"{name} is {_show(value)}, not true or false; correct config.json.")
        return value
    if name.endswith(_ORIGINAL_LENGTH):
        return _integer(value, name)
    return _number(value, name)
