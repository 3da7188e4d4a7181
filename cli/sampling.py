"""Options of sampling that have no effect together, refused by ``generate`` and ``chat``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from exaone_export.errors import UnsupportedOptionError
from exaone_export.runtime.runner.presets import OF_DRAWS

if TYPE_CHECKING:
    from exaone_export.runtime.core.sampling import Sampling

__all__ = ["check_draws", "check_temperature", "flag"]

_LEAST_TEMPERATURE = 1e-4
"""Logits are divided by it, and must stay finite."""


def check_temperature(given: Mapping[str, Any]) -> None:
    """Raise for what no model can sample with; it is known before anything is opened.

    Args:
        given: The options that were given, by name.

    Raises:
        UsageError: The temperature is too small, or is 0 beside an option of draws.
    """
    temperature = given.get("temperature")
    if temperature and temperature < _LEAST_TEMPERATURE:
        raise click.UsageError(f"--temperature {temperature:g} is too small to sample with; pass 0 for greedy")
    if temperature == 0 and (drawn := sorted(OF_DRAWS & given.keys())):
        raise click.UsageError(f"{flag(drawn[0])} is for sampling; pass a --temperature above 0")


def check_draws(sampling: Sampling, given: Mapping[str, Any]) -> None:
    """Raise for an option of draws where the answer is greedy, once the model and its files have decided that.

    Args:
        sampling: Of the answer.
        given: The options that were given, by name.

    Raises:
        UnsupportedOptionError: There is one.
    """
    if not sampling.draws and (drawn := sorted(OF_DRAWS & given.keys())):
        raise UnsupportedOptionError(f"{flag(drawn[0])} is for sampling; pass --temperature too.")


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name.replace('_', '-')}"
