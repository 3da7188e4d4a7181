"""Tokens of a tokenizer that its model has no embedding for: added to ``tokenizer.json`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files import strict_json
from .sidecars import max_bytes_of

__all__ = ["describe_beyond"]

_NAME = "tokenizer.json"
_NAMED = 3


def describe_beyond(folder: Path, vocab_size: int) -> str | None:
    """A phrase on the tokens of ``tokenizer.json`` that are outside the model's vocabulary.

    Args:
        folder: Of a checkpoint or an artifact.
        vocab_size: The model's.

    Returns:
        None where there are none, or the file cannot be read.
    """
    path = folder / _NAME
    try:
        content = strict_json.read_object(path, max_bytes=max_bytes_of(_NAME), error=ArtifactError)
    except ArtifactError:
        return None
    beyond = sorted((index, token) for token, index in _tokens(content).items() if index >= vocab_size)
    if not beyond:
        return None
    named = ", ".join(f"{token!r:.40} ({index})" for index, token in beyond[:_NAMED])
    more = ", …" if len(beyond) > _NAMED else ""
    return f"{_NAME} has {len(beyond)} more tokens than the model's {vocab_size} embeddings: {named}{more}"


def _tokens(content: dict[str, Any]) -> dict[str, int]:
    """Ids by token, as far as the file has the form that is expected."""
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    found = list(vocabulary.items()) if isinstance(vocabulary, dict) else []
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict):
            found.append((token.get("content"), token.get("id")))
    return {token: index for token, index in found if isinstance(token, str) and type(index) is int}
