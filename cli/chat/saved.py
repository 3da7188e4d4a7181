"""A conversation in a file: JSON that ``/save`` writes whole or not at all, and ``/load`` checks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from exaone_export.errors import ConversationError
from exaone_export.files import strict_json
from exaone_export.files.durable import replacing
from exaone_export.files.records import Record, read_record
from exaone_export.files.unicode_text import check_unicode

__all__ = ["read_conversation", "write_conversation"]

_MAX_BYTES = 16 << 20
_FIX = "give a file that /save has written"
_FORMAT = "exaone-export conversation"


class _System(Record, tag_field="role", tag="system", frozen=True):
    content: str


class _User(Record, tag_field="role", tag="user", frozen=True):
    content: str


class _Function(Record, frozen=True):
    name: str
    arguments: dict[str, Any]


class _Call(Record, frozen=True):
    type: Literal["function"]
    function: _Function


class _Assistant(Record, tag_field="role", tag="assistant", frozen=True, omit_defaults=True):
    content: str
    tool_calls: list[_Call] = msgspec.field(default_factory=list)


class _Tool(Record, tag_field="role", tag="tool", frozen=True):
    content: str


class _Conversation(Record, frozen=True):
    format: Literal["exaone-export conversation"]
    version: Literal[1]
    messages: list[_System | _User | _Assistant | _Tool]


def write_conversation(path: Path, messages: Sequence[Mapping[str, Any]]) -> None:
    """Write the messages; where that fails, the file is what it was.

    Raises:
        ConversationError: They could not be read again, or the disk refuses.
    """
    content = {"format": _FORMAT, "version": 1, "messages": messages}
    data = json.dumps(content, indent=1, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
    _parse(data, f"the conversation for {path}")
    try:
        with replacing(path.resolve()) as file:
            file.write(data)
    except OSError as cause:
        raise ConversationError(
            f"{path} cannot be written ({cause.strerror}); the conversation goes on, so give another file."
        ) from cause


def read_conversation(path: Path) -> list[dict[str, Any]]:
    """The messages of a file.

    Raises:
        ConversationError: It cannot be read, or is not a conversation.
    """
    return _parse(strict_json.read_bytes(path, max_bytes=_MAX_BYTES, error=ConversationError), str(path))


def _parse(data: bytes, name: str) -> list[dict[str, Any]]:
    if len(data) > _MAX_BYTES:
        raise ConversationError(f"{name} has {len(data)} bytes, and at most {_MAX_BYTES} are read; begin a new one.")
    value = strict_json.parse_object(data, name=name, error=ConversationError)
    if value.get("format") != _FORMAT:
        raise ConversationError(f"{name} is not a saved conversation; {_FIX}.")
    read = read_record(value, _Conversation, name=name, fix=_FIX, error=ConversationError)
    _check_order(read.messages, name)
    messages: list[dict[str, Any]] = msgspec.to_builtins(read.messages)
    check_unicode(json.dumps(messages, ensure_ascii=False), name, ConversationError)
    return messages


def _check_order(messages: Sequence[Any], name: str) -> None:
    """A system message is the first one, and a tool's result follows the call that it answers."""
    open_calls = 0
    for number, message in enumerate(messages, start=1):
        if isinstance(message, _System) and number > 1:
            raise ConversationError(f"{name} has message {number} of the system, which only begins one; {_FIX}.")
        if isinstance(message, _Tool) and not open_calls:
            raise ConversationError(f"{name} has message {number} of a tool that was not called; {_FIX}.")
        if isinstance(message, _Assistant):
            open_calls = len(message.tool_calls)
        else:
            open_calls = open_calls - 1 if isinstance(message, _Tool) else 0
