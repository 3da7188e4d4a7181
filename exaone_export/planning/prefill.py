"""How the tokens of a prompt are divided into steps, and which of them a graph of its own runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..targets.target import Target

__all__ = ["PREFILL_CHUNKS", "PREFILL_THRESHOLD", "check_prefill_chunk"]

# A processor is as fast with 128 columns as with 512, and needs a quarter of the memory; a GPU wants more to do.
PREFILL_CHUNKS = {"cpu": 128, "cuda": 512}
"""Default number of prompt tokens per step, by device."""

PREFILL_THRESHOLD = 16
"""Default rows times tokens of a step from which on a graph for prompts runs it."""


def check_prefill_chunk(target: Target, prefill_chunk: int | None) -> None:
    """Raise ConfigError where the target's caches have no use for the chunk."""
    if prefill_chunk is None:
        return
    if not target.cache_headroom:
        raise ConfigError(f"target {target.name} takes steps of any length; leave --prefill-chunk out.")
    if prefill_chunk < 1:
        raise ConfigError(f"prefill chunk is {prefill_chunk}; it must be at least 1: pass --prefill-chunk 1 or more.")
