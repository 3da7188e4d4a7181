"""Numbers on the command line, within what the libraries below can take."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["LOOKUP", "SEED", "THREADS", "Count", "Real"]

_MOST = 2**31 - 1


class Count(click.IntRange):
    """A number of things, as `click.IntRange`, that fits 32 bits."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read and check it."""
        number = super().convert(value, param, ctx)
        if number > _MOST:
            self.fail(f"{number} is more than {_MOST}.", param, ctx)
        return number


class Real(click.FloatRange):
    """A number, as `click.FloatRange`, that is finite: NaN lies in every range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read and check it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class _Seed(click.types.IntParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not -(2**63) <= number < 2**64:
            self.fail(f"{number} is not in the range of 64-bit integers.", param, ctx)
        return number


SEED = _Seed()
"""What PyTorch's generators take."""

THREADS = Count(1, 1024)


class _Lookup(click.ParamType):
    """A number of tokens to guess at most, or one of two words."""

    name = "N|auto|off"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read and check it."""
        if value in ("auto", "off"):
            return value
        try:
            return Count(min=1).convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is neither a number of tokens of at least 1 nor auto nor off.", param, ctx)


LOOKUP = _Lookup()
"""Of ``--prompt-lookup`` where the default is auto."""
