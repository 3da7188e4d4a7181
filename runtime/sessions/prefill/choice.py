"""Which graph of an artifact runs which steps, where it has one for answers and one for prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exaone_export.errors import UnsupportedOptionError

if TYPE_CHECKING:
    from exaone_export.artifact.reader import Artifact

    from ...core.steps import Step

__all__ = ["BOTH", "GraphChoice"]


@dataclass(frozen=True)
class GraphChoice:
    """What a program asks of an artifact with a graph of its own for prompts (``export --prefill-precision``).

    Attributes:
        prefill: Whether that graph is loaded, which takes memory for its weights; of an artifact with one graph, None
            is.
        threshold: Rows times tokens of a step from which on it runs the step; None for the artifact's own.
        batches: Whether it also runs steps of one token each of many rows. What a row says then depends, within the
            limits of parity, on how many others are answered at once.

    Raises:
        UnsupportedOptionError: The threshold is below 2, or there is no graph that the others would be of.
    """

    prefill: bool = True
    threshold: int | None = None
    batches: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and (isinstance(self.threshold, bool) or self.threshold < 2):
            raise UnsupportedOptionError(f"prefill_threshold is {self.threshold!r:.40}; it must be at least 2.")
        if not self.prefill and (self.threshold is not None or self.batches):
            raise UnsupportedOptionError(
                "the graph for prompts is left out, and a threshold or batches for it are given; give one or the other."
            )

    def check(self, artifact: Artifact) -> None:
        """Raise where an artifact with one graph is asked to choose.

        Raises:
            UnsupportedOptionError: It is.
        """
        if artifact.prefill is None and (self.threshold is not None or self.batches):
            raise UnsupportedOptionError(
                f"{artifact.folder} has no graph of its own for prompts, so there is nothing to choose; export the "
                f"model with --prefill-precision int8, or leave {'batches' if self.batches else 'the threshold'} out."
            )

    def is_for_prompts(self, step: Step, threshold: int) -> bool:
        """Whether the graph for prompts runs a step: one of many tokens, of which the last one's logits are wanted.

        Guesses that are judged want those of all, which must be what steps of one token would give.
        """
        rows, width, kept = step.shape
        return rows * width >= threshold and kept <= 1 and (width > 1 or self.batches)


BOTH = GraphChoice()
"""Every graph is loaded, and chosen as the artifact says."""
