"""How many tokens an answer may have, by what a row of the cache holds."""

from __future__ import annotations

from exaone_export.errors import PromptError

__all__ = ["allowed_answer", "check_length"]


def check_length(tokens: int, max_length: int) -> None:
    """Refuse more tokens than a row of the cache holds.

    Raises:
        PromptError: ``tokens`` is above ``max_length``.
    """
    if tokens > max_length:
        raise PromptError(
            f"the prompt and what follows come to {tokens} tokens, and the artifact holds {max_length}; shorten it, or "
            f"export with --max-length {tokens} or more."
        )


def allowed_answer(prompt: int, asked: int, max_length: int, explicit: bool) -> int:
    """New tokens that fit the artifact.

    Args:
        prompt: Tokens of the longest row.
        asked: New tokens requested.
        max_length: The most tokens, prompt and answer together, that the artifact holds.
        explicit: Whether the caller named a number, which is then honoured or refused; a default is shortened.

    Raises:
        PromptError: The prompt leaves no room, or less than requested.
    """
    check_length(prompt, max_length)
    room = max_length - prompt
    if asked <= room:
        return asked
    if explicit or not room:
        raise PromptError(
            f"a prompt of {prompt} tokens and an answer of up to {asked} come to {prompt + asked}, and the artifact "
            f"holds {max_length}; request fewer, or export with --max-length {prompt + asked} or more."
        )
    return room
