"""Dice, as functions that a model may call: ``exaone-export chat ARTIFACT --tools examples/tools/dice.py``."""

from __future__ import annotations

import random
from typing import Annotated

from msgspec import Meta

_RANDOM = random.SystemRandom()


def roll(count: Annotated[int, Meta(ge=1, le=100)] = 1, sides: Annotated[int, Meta(ge=2, le=1000)] = 6) -> list[int]:
    """Roll dice, and give what each of them shows.

    Args:
        count: How many dice.
        sides: Of each die.
    """
    return [_RANDOM.randint(1, sides) for _ in range(count)]


def chance(total: int, count: Annotated[int, Meta(ge=1, le=100)] = 2) -> dict[str, float]:
    """The probability that dice with six sides show a total or more.

    Args:
        total: The least sum.
        count: How many dice.
    """
    ways = {0: 1}
    for _ in range(count):
        ways = {
            reached: sum(ways.get(reached - shown, 0) for shown in range(1, 7))
            for reached in range(min(ways) + 1, max(ways) + 7)
        }
    return {"probability": sum(number for reached, number in ways.items() if reached >= total) / 6**count}
