"""What an answer is held to, such as the grammar of a JSON schema.

Legend: V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["Constraint"]


class Constraint(Protocol):
    """Which tokens may come next in one answer; each answer needs its own.

    Both are called in the engine's thread, once for each token and in the order in which tokens are chosen, guesses of
    prompt lookup included. What they raise ends this answer alone.
    """

    def forbid(self, scores_V: np.ndarray) -> None:
        """Set the scores of tokens that may not come next to minus infinity.

        Args:
            scores_V: ``[V]`` float32, bias and penalties included; changed in place. One at least stays finite.
        """
        ...

    def take(self, token: int) -> bool:
        """Note the token that was chosen; True where nothing may follow it, which ends the answer by "stop"."""
        ...
