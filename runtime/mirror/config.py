"""The config of transformers' class of a model."""

from __future__ import annotations

import transformers
from transformers import PreTrainedConfig

from exaone_export.model.spec import ModelSpec

__all__ = ["transformers_config"]


def transformers_config(spec: ModelSpec, name: str = "") -> PreTrainedConfig:
    """The config that transformers' own class of a model takes.

    Args:
        spec: The architecture.
        name: Where it comes from, as ``name_or_path``.
    """
    # EXAONE 3's own, new in transformers 5.24, is Llama's under another name.
    names = (f"{prefix}Config" for prefix in spec.family.classes)
    kind = next(getattr(transformers, each) for each in names if hasattr(transformers, each))
    config: PreTrainedConfig = kind(**spec.to_config(), name_or_path=name)
    return config
