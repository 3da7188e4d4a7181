"""Which requests go to the same replica: those whose prompts begin alike, so that its cache holds the beginning."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..transport.in_process import Call

__all__ = ["SESSION_HEADER", "session_of"]

SESSION_HEADER = b"x-session-id"
"""A client may say itself what belongs together."""

_RESPONSES = "/v1/responses"
_CHARACTERS = 256


def session_of(call: Call) -> str | None:
    """What a request has in common with those that it goes to a replica with; None where any replica will do.

    It is the header, or else a hash: of a chat's tools and its messages up to the first of a user, which all turns of a
    conversation begin with, or of a prompt's first characters.
    """
    if (named := dict(call.headers).get(SESSION_HEADER)) is not None:
        return hashlib.sha256(named).hexdigest()
    try:
        body = json.loads(call.body)
        begun = _beginning(call, body)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):  # the replica says what is wrong with it
        return None
    return None if begun is None else hashlib.sha256(json.dumps(begun, sort_keys=True).encode()).hexdigest()


def _beginning(call: Call, body: Any) -> Any:
    messages = body.get("input" if call.path == _RESPONSES else "messages")
    if isinstance(messages, str):  # the first turn of what goes on as a list
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, list):
        first = next((index for index, each in enumerate(messages) if each.get("role") == "user"), len(messages))
        begun = [(each.get("role"), each.get("content")) for each in messages[: first + 1]]
        return [body.get("tools"), body.get("instructions"), begun]
    prompt = body.get("prompt")
    return prompt[:_CHARACTERS] if isinstance(prompt, str | list) else None
