"""Numbers on the command line, within what the libraries below can take."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["SEED", "THREADS", "Count", "Real"]

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
