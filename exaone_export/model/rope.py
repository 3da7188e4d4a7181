"""Rotary position embedding: the numbers that its frequencies follow from."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import ConfigError

__all__ = ["STATIC_ROPE_TYPES", "RopeSpec"]

STATIC_ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Types whose frequencies depend on position alone, and can be tables in a graph."""


@dataclasses.dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding, shared by every rotary layer.

    Attributes:
        rope_type: ``default``, ``linear``, ``llama3`` or ``yarn``, as transformers defines them.
        theta: The base of the geometric series of wavelengths.
        parameters: The scaling numbers of the type, sorted by name; empty for ``default``.
    """

    rope_type: str
    theta: float
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for a type whose frequencies are not constants."""
        if self.rope_type not in STATIC_ROPE_TYPES:
            raise ConfigError(
                f"rope_type is {self.rope_type!r}, but the frequencies of an exported graph are constants, so only "
                f"{', '.join(STATIC_ROPE_TYPES)} can be exported; use a checkpoint with one of these."
            )

    @property
    def scaling(self) -> dict[str, float]:
        """The scaling numbers by name."""
        return dict(self.parameters)

    def to_config(self) -> dict[str, Any]:
        """``rope_parameters`` as transformers 5 writes them."""
        return {"rope_type": self.rope_type, "rope_theta": self.theta, **self.scaling}
