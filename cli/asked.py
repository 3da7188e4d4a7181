"""The checked arguments of ``exaone-export generate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exaone_export.runtime.sessions.prefill.choice import GraphChoice

__all__ = ["ANSWER_TOKENS", "NO_REASONING", "REASONING_TOKENS", "Asked"]

ANSWER_TOKENS = 256
"""Of an answer that no length is given for, as far as the artifact has room."""

REASONING_TOKENS = 32_768
"""The same of an answer with reasoning, which must not be cut off before the answer itself."""

NO_REASONING = "the artifact's chat template does not support reasoning; --thinking has no effect."
"""A warning."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and how it is to be answered.

    Attributes:
        prompt: The user's text.
        system: The system message, or None.
        thinking: Whether the model reasons first.
        raw: Whether the prompt is used as it is, without the chat template.
        tools: JSON schemas, or None.
        max_new_tokens: As given, or None.
        mode: The preset of sampling, or None.
        settings: Options of ``generate()`` that were given, by their names there.
        seed: Of the draws, or None.
        threads: Of an operator, or None.
        graphs: Which are loaded and run which steps, where there is one of its own for prompts.
        as_json: Whether one JSON object is printed.
    """

    prompt: str
    system: str | None
    thinking: bool
    raw: bool
    tools: list[Any] | None
    max_new_tokens: int | None
    mode: str | None
    settings: Mapping[str, Any]
    seed: int | None
    threads: int | None
    graphs: GraphChoice
    as_json: bool

    @property
    def messages(self) -> list[dict[str, str]]:
        """For the chat template."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.prompt}]
