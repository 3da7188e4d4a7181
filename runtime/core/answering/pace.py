"""How long a guess is worth judging: what is accepted, against what a step of several tokens costs.

A guess is judged only where that is expected to save time. Until then it is compared with the token that a plain step
gives, which costs nothing, so that an answer that begins to repeat its text is noticed.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Pace", "StepCosts"]

_KEPT = 5  # times of steps of one width; their median leaves out a step that something else has held up
_UNMEASURED = 0.2  # of a step of one token, what another token costs where none was measured
_GAIN = 1.05  # that is expected at least where a guess is judged
# An answer begins with a fifth of the guesses right, as if two had been judged; what is older than some twenty fades.
_RIGHT, _JUDGED, _KEEPS = 0.4, 2.0, 0.95


class StepCosts:
    """Seconds of an engine's steps of one row, by the number of their tokens."""

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._seconds: dict[int, float] = {}

    def note(self, width: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
        times = self._times.setdefault(width, deque(maxlen=_KEPT))
        times.append(seconds)
        self._seconds[width] = max(sorted(times)[len(times) // 2], 1e-9)

    def ratio(self, width: int) -> float:
        """What a step of so many tokens costs, in steps of one token."""
        one = self._seconds.get(1)
        nearest = min(self._seconds.keys() - {1}, key=lambda known: (abs(known - width), known), default=None)
        if one is None or nearest is None:
            return 1 + _UNMEASURED * (width - 1)
        more = self._seconds[nearest] / one - 1
        return 1 + max(more, 0) * (width - 1) / (nearest - 1)


class Pace:
    """Decides for one answer how many of its guesses are judged.

    Args:
        costs: Of the engine's steps.
    """

    def __init__(self, costs: StepCosts) -> None:
        self._costs, self._right, self._judged = costs, _RIGHT, _JUDGED

    @property
    def share(self) -> float:
        """Of the guessed tokens behind right ones, those that are right too."""
        return self._right / self._judged

    def length(self, most: int) -> int:
        """How many tokens, ``most`` at the most, are worth judging; 0 for none."""
        best, gain, expected, chance = 0, _GAIN, 1.0, 1.0
        for length in range(1, most + 1):
            chance *= self.share
            expected += chance
            if (found := expected / self._costs.ratio(length + 1)) > gain:
                best, gain = length, found
        return best

    def note(self, right: int, wrong: int) -> None:
        """So many guessed tokens were right, and so many, one at the most, were the first wrong one."""
        self._right = self._right * _KEEPS + right
        self._judged = self._judged * _KEEPS + right + wrong
