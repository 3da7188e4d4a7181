"""A chat on a line of a JSONL file: checked, and as tokens; the message of an error names the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exaone_export.errors import ExaoneExportError

from .chat import ChatFormat
from .chat_templates import REFUSES
from .tokenizer import AnyTokenizer

__all__ = ["check_messages", "encode_messages"]


def check_messages(value: Any, *, name: str, error: type[ExaoneExportError]) -> None:
    """Raise unless the value of a line's key ``"messages"`` is a chat.

    Raises:
        ExaoneExportError: Of the type ``error``: it is not a list of objects that have a role.
    """
    if not (
        isinstance(value, list)
        and value
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in value)
    ):
        raise error(f"{name} has 'messages' that are not a list of objects with a 'role'; write a chat there.")


def encode_messages(
    tokenizer: AnyTokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    name: str,
    error: type[ExaoneExportError],
    **options: Any,
) -> list[int]:
    """The tokens of a chat, to its end where the model's turn is the last, and else to where that turn begins.

    Args:
        tokenizer: Has the chat template.
        messages: The chat.
        name: What the line is called in messages.
        error: What is raised.
        options: Of `ChatFormat.encode`.

    Raises:
        ArtifactError: The tokenizer has no chat template.
        ExaoneExportError: Of the type ``error``: the template refuses the chat.
    """
    try:
        return ChatFormat(tokenizer).encode(
            messages, add_generation_prompt=messages[-1]["role"] != "assistant", **options
        )
    except (TypeError, ValueError, LookupError) as cause:
        why = str(cause).removeprefix(REFUSES).rstrip(".")
        raise error(f"{name} cannot be rendered by the chat template ({why}); correct it.") from cause
