"""The tags around what a model reasons, which its chat template opens at the end of a prompt.

EXAONE 4.0, EXAONE 4.5 and K-EXAONE reason in ``<think>…</think>``, EXAONE Deep in ``<thought>…</thought>``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REASONING", "Reasoning", "opened_by"]


@dataclass(frozen=True)
class Reasoning:
    """One pair of tags.

    Attributes:
        begin: What reasoning begins with.
        end: What it ends with.
    """

    begin: str
    end: str


REASONING = (Reasoning("<think>", "</think>"), Reasoning("<thought>", "</thought>"))
"""Those of the family."""


def opened_by(prompt: str) -> Reasoning | None:
    """The tags that the end of a prompt opens, so that the answer begins inside them; None where it opens none."""
    end = prompt.rstrip()
    return next((tags for tags in REASONING if end.endswith(tags.begin)), None)
