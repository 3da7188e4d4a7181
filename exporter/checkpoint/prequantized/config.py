"""The table of quantization methods: ``quantization_config`` to the form of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .awq import read_awq
from .compressed_tensors import read_compressed_tensors
from .form import Form
from .fp8 import read_fp8
from .gptq import read_gptq
from .section import Section

__all__ = ["read_form"]

_METHODS: Mapping[str, Callable[[Section], Form]] = {
    "gptq": read_gptq,
    "awq": read_awq,
    "compressed-tensors": read_compressed_tensors,
    "fp8": read_fp8,
}


def read_form(config: Mapping[str, Any]) -> Form | None:
    """Read the form out of the content of a ``config.json``.

    Returns:
        None where the checkpoint is not quantized.

    Raises:
        ConfigError: The method is unknown, or its settings describe what cannot be exported.
    """
    values = config.get("quantization_config")
    if values is None:
        return None
    section = Section("quantization_config", values)
    method = section.choice("quant_method", tuple(_METHODS))
    return _METHODS[method](section)
