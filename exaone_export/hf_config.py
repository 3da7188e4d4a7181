"""Every spelling of EXAONE 4's ``config.json``, read into one `ModelSpec`.

transformers 4 and 5 spell RoPE, the layer pattern and the dtype differently, and programs disagree about some of it.
The rule here: what decides the numbers must be written in the file and read by everyone alike, or it is refused; only
the token ids and the tying of the word embeddings fall back to transformers' defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exaone_export import strict_json
from exaone_export.errors import ConfigError
from exaone_export.spec import FULL_ATTENTION, LAYER_TYPES, SLIDING_ATTENTION, STATIC_ROPE_TYPES, ModelSpec, RopeSpec

__all__ = ["MAX_CONFIG_BYTES", "read", "read_folder"]

MAX_CONFIG_BYTES = 1 << 20
MODEL_TYPES = ("exaone4",)
DTYPES = ("float32", "bfloat16", "float16")

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


def _refuse_other_architectures(config: Mapping[str, Any]) -> None:
    model_type = _required(config, "model_type")
    if model_type not in MODEL_TYPES:
        raise ConfigError(
            f"model_type is {_show(model_type)}, which has no exporter; use an {' or '.join(MODEL_TYPES)} checkpoint."
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ConfigError(
            f"hidden_act is {_show(config['hidden_act'])}, but EXAONE 4 uses silu; choose a checkpoint that does."
        )
    for key in ("attention_bias", "mlp_bias"):
        if _flag(config, key):
            raise ConfigError(f"{key} is true, but EXAONE 4 has no biases; choose a checkpoint without them.")


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
    found = {str(config[key]).removeprefix("torch.") for key in ("dtype", "torch_dtype") if config.get(key) is not None}
    if len(found) > 1:
        raise ConfigError(
            f"dtype and torch_dtype differ ({' and '.join(sorted(found))}); keep one of them in config.json."
        )
    for dtype in found:
        if dtype not in DTYPES:
            raise ConfigError(
                f"dtype is {_show(dtype)}, and only {', '.join(DTYPES)} can be exported; convert the checkpoint."
            )
        return dtype
    return None


# Layers


def _window(config: Mapping[str, Any]) -> int | None:
    # An absent key is 4096 to transformers and "no window" to others, and it decides which layers rotate.
    value = _required(config, "sliding_window")
    return None if value is None else _integer(value, "sliding_window")


def _layer_types(config: Mapping[str, Any], num_layers: int, window: int | None) -> tuple[str, ...]:
    stated = config.get("layer_types")
    pattern = _pattern(config.get("sliding_window_pattern"), num_layers, window)
    if stated is None:
        return _layer_types_from_pattern(pattern, config.get("sliding_window_pattern"), num_layers, window)
    if not isinstance(stated, list | tuple) or not all(isinstance(layer_type, str) for layer_type in stated):
        raise ConfigError(
            f"layer_types is {_show(stated)}, not a list of {' and '.join(LAYER_TYPES)}; correct config.json."
        )
    if pattern is not None and len(stated) == num_layers:
        # The documented reading makes the last layer global whatever the pattern says, so both ends are an agreement.
        differing = [index for index in range(num_layers - 1) if stated[index] != pattern[index]]
        if stated[-1] not in (pattern[-1], FULL_ATTENTION):
            differing.append(num_layers - 1)
        if differing:
            raise ConfigError(
                f"layer_types and sliding_window_pattern {_show(config['sliding_window_pattern'])} disagree from layer "
                f"{differing[0]} on; keep the right one in config.json and remove the other."
            )
    return tuple(stated)


def _pattern(pattern: Any, num_layers: int, window: int | None) -> tuple[str, ...] | None:
    """What ``sliding_window_pattern`` says of each layer; None if it says nothing."""
    if isinstance(pattern, bool) or not isinstance(pattern, int | str | None):
        raise ConfigError(
            f"sliding_window_pattern is {_show(pattern)}, not a number, a text such as 'LLLG', or null; correct "
            f"config.json."
        )
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


def _layer_types_from_pattern(
    pattern: tuple[str, ...] | None, written: Any, num_layers: int, window: int | None
) -> tuple[str, ...]:
    if window is None:
        return (FULL_ATTENTION,) * num_layers
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
    sources = {key: config[key] for key in ("rope_parameters", "rope_scaling") if config.get(key) is not None}
    for key, parameters in sources.items():
        _check_rope_source(key, parameters)
    theta = _theta(config, sources)
    if partial := {
        _show(source["partial_rotary_factor"])
        for source in (config, *sources.values())
        if source.get("partial_rotary_factor") not in (None, 1, 1.0)
    }:
        raise ConfigError(
            f"partial_rotary_factor is {min(partial)}, but EXAONE 4 rotates whole heads; choose such a checkpoint."
        )

    readings = {key: _rope_reading(key, source, config, theta) for key, source in sources.items()}
    if len(set(readings.values())) > 1:
        raise ConfigError("rope_parameters and rope_scaling differ; keep one of them in config.json.")
    return next(iter(readings.values()), RopeSpec("default", theta))


def _check_rope_source(key: str, parameters: Any) -> None:
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"{key} is {_show(parameters)}, not an object; correct config.json.")
    if any(layer_type in parameters for layer_type in LAYER_TYPES):
        raise ConfigError(
            f"{key} is nested by layer type, but EXAONE 4 has one RoPE for all rotary layers; make it flat in "
            f"config.json."
        )


def _theta(config: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> float:
    places = [
        (name, _number(value, name))
        for name, value in [
            ("rope_theta", config.get("rope_theta")),
            *((f"{key}.rope_theta", source.get("rope_theta")) for key, source in sources.items()),
        ]
        if value is not None
    ]
    if not places:
        raise ConfigError("rope_theta is missing, and it decides the architecture; add it to config.json.")
    for name, value in places[1:]:
        if value != places[0][1]:
            raise ConfigError(
                f"{places[0][0]} is {places[0][1]:g} and {name} is {value:g}; keep one of them in config.json."
            )
    return places[0][1]


def _rope_reading(key: str, source: Mapping[str, Any], config: Mapping[str, Any], theta: float) -> RopeSpec:
    types = {str(source[name]) for name in ("rope_type", "type") if source.get(name) is not None}
    if len(types) > 1:
        raise ConfigError(f"{key} has the types {' and '.join(sorted(types))}; keep one of them in config.json.")
    rope_type = types.pop() if types else "default"
    if rope_type not in STATIC_ROPE_TYPES:
        return RopeSpec(rope_type, theta)  # Raises, naming the type.

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
    if unknown := sorted(numbers.keys() - required - optional):
        raise ConfigError(
            f"{key} of type {rope_type} has {unknown[0]!r}, which that type does not use; correct config.json."
        )
    parameters = tuple((name, _rope_number(f"{key}.{name}", numbers[name])) for name in sorted(numbers))
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
