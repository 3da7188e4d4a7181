"""How an artifact is loaded to answer requests."""

from __future__ import annotations

from dataclasses import dataclass

from ..runner.lookup import Lookup
from ..sessions.prefill.choice import BOTH, GraphChoice

__all__ = ["Loading"]


@dataclass(frozen=True)
class Loading:
    """What a server, a replica and a batch choose of a model; they hand it to the processes that load it.

    Attributes:
        slots: Answers that are generated at once.
        queue: Requests that may wait for a slot.
        threads: Threads that one operator may use; by default the physical cores.
        graphs: Which are loaded and run which steps, where there is one of its own for prompts.
        prompt_lookup: How many tokens are guessed (default: the file's number, else "auto").
    """

    slots: int = 4
    queue: int = 64
    threads: int | None = None
    graphs: GraphChoice = BOTH
    prompt_lookup: Lookup = None
