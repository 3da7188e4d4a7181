"""The length of an answer: as requested, if the artifact's cache has room for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from exaone_export.errors import PromptError

from ..core.answer_length import allowed_answer, check_length

__all__ = ["fit_answer", "is_length_named"]

_DEFAULT_ANSWER = 20
"""New tokens if no length is given, as transformers documents ``max_length``."""

_LENGTHS = ("max_new_tokens", "max_length")


def is_length_named(config: GenerationConfig | None, arguments: Mapping[str, Any]) -> bool:
    """Whether the caller limits the length of the answer; the model's defaults do not count."""
    own = {} if config is None else vars(config)
    return any(source.get(name) is not None for source in (own, arguments) for name in _LENGTHS)


def fit_answer(
    options: Mapping[str, Any], columns: int, tokens: int, max_length: int, explicit: bool
) -> dict[str, int]:
    """The option that is to change so that an answer fits the artifact; none where it fits as it is.

    Args:
        options: Those of `merge_options`.
        columns: Of ``input_ids``, which ``max_length`` counts too.
        tokens: Of the longest row, cached ones included.
        max_length: The most tokens, prompt and answer together, that the artifact holds.
        explicit: Whether the caller named a length.

    Raises:
        PromptError: The options or the artifact leave no room for a token, or for less than requested.
    """
    new, longest = (options.get(name) for name in _LENGTHS)
    asked = new if new is not None else _DEFAULT_ANSWER if longest is None else longest - columns
    if asked < 1:
        check_length(tokens + 1, max_length)
        if new is not None:
            raise PromptError(f"max_new_tokens is {new}; it must be at least 1.")
        raise PromptError(
            f"max_length is {longest}, the {columns} columns of the prompt included, which leaves no room for an "
            f"answer; pass max_new_tokens."
        )
    allowed = allowed_answer(tokens, asked, max_length, explicit)
    if allowed == asked:
        return {}
    return {"max_length": columns + allowed} if new is None else {"max_new_tokens": allowed}
