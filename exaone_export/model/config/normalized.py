"""``config.json`` as it is handed on: in one spelling, whatever the checkpoint's was.

Tokenizers, transformers and whoever reads an artifact are told what `exaone_export.model.config.reading` has read, and
so cannot read the same file in another way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError
from ..spec import ModelSpec
from .reading import read_spec
from .spelling import respell

__all__ = ["normalize", "overruled"]

# What `read_spec` reads into other keys, what transformers ignores, and what is about a machine's kernels or the
# checkpoint's own files.
_NOT_KEPT = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_internal",
        "_experts_implementation_internal",
        "attention_bias",
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "mlp_bias",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "per_layer_config",
        "quantization_config",
        "rope_scaling",
        "rope_theta",
        "torch_dtype",
        "use_kernels",
    }
)


def normalize(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a ``config.json`` in the spelling of `ModelSpec.to_config`, with all else that it says.

    Raises:
        ConfigError: As `read_spec`.
    """
    kept = {key: value for key, value in respell(config).items() if key not in _NOT_KEPT}
    return kept | read_spec(config).to_config()


def overruled(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a ``config.json`` says beside what decides, and otherwise; a sentence each.

    Raises:
        ConfigError: As `read_spec`.
    """
    config = respell(config)
    spec, found = read_spec(config), []
    pattern, types, scaling = (config.get(key) for key in ("sliding_window_pattern", "layer_types", "rope_scaling"))
    if pattern and types is not None and spec.family.windows:
        alone = _read({**config, "layer_types": None})
        if alone is None or alone.layer_types != spec.layer_types:
            found.append(
                f"sliding_window_pattern {pattern!r:.40} is ignored, as transformers does: layer_types decides"
            )
    if scaling and config.get("rope_parameters"):
        alone = _read({**config, "rope_scaling": None})
        if alone is None or alone.rope != spec.rope:
            found.append("rope_parameters is ignored, as transformers does: rope_scaling decides")
    return tuple(found)


def _read(config: Mapping[str, Any]) -> ModelSpec | None:
    try:
        return read_spec(config)
    except ConfigError:
        return None
