"""What an engine is doing, and has done since it began."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Statistics"]


@dataclass
class Statistics:
    """Numbers of one moment; all but the first four only grow.

    Attributes:
        slots: Answers that can be generated at once.
        running: Requests that have a slot.
        waiting: Requests that wait for one.
        held_tokens: Tokens that the caches of all slots hold, of past conversations too.
        prompt_tokens: Of the prompts that were begun.
        reused_tokens: Those of them that a cache held already.
        answer_tokens: Tokens that were generated.
        steps: Of the model, those of prompts included.
    """

    slots: int = 1
    running: int = 0
    waiting: int = 0
    held_tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    answer_tokens: int = 0
    steps: int = 0
