"""A conversation without a terminal: a line is a message, and answers go to stdout."""

from __future__ import annotations

import json
from typing import BinaryIO

from exaone_export.errors import ExaoneExportError, PromptError
from exaone_export.files.unicode_text import decode_utf8
from exaone_export.planning.sizes import format_size
from exaone_export.runtime.text.tool_calls import ToolCall

from ..output import say
from .commands import Leave, take
from .conversation import Conversation
from .shown import write_call

__all__ = ["Lines", "ask", "converse"]

_MOST_BYTES = 4 << 20


class Lines:
    """The messages of a stream: lines, of which a backslash at the end continues the next."""

    def __init__(self, stream: BinaryIO | None) -> None:
        self._stream, self._number = stream, 0

    def read(self) -> str | None:
        """The next message, or None at the end.

        Raises:
            PromptError: A line is too long, or is not UTF-8; the next one can be read.
        """
        parts: list[str] = []
        while (line := self._read_line()) is not None:
            parts.append(line)
            if not line.endswith("\\"):
                break
            parts[-1] = line[:-1]
        return "\n".join(parts) if parts else None

    def _read_line(self) -> str | None:
        if self._stream is None or not (data := self._stream.readline(_MOST_BYTES + 1)):
            return None
        self._number += 1
        if len(data) > _MOST_BYTES:
            while data and not data.endswith(b"\n"):
                data = self._stream.readline(_MOST_BYTES)
            raise PromptError(f"line {self._number} is longer than {format_size(_MOST_BYTES)}; shorten it.")
        return decode_utf8(data.removesuffix(b"\n").removesuffix(b"\r"), f"line {self._number}", PromptError)


def converse(conversation: Conversation, lines: Lines, *, as_json: bool) -> bool:
    """Take messages and commands to the end of input, and tell whether all of them were answered.

    Args:
        conversation: With a screen that shows everything but answers on stderr.
        lines: The input.
        as_json: Whether a message gives one JSON object on stdout, instead of the answer's text.
    """
    conversation.chat  # noqa: B018 - what cannot be loaded is refused without a message too
    good = True
    while True:
        try:
            text = lines.read()
            if text is None:
                return good
            before = conversation.last
            take(conversation, text)
        except Leave:
            return good
        except ExaoneExportError as error:
            good = False
            conversation.screen.error(str(error))
            if as_json:
                say(json.dumps({"error": str(error)}, ensure_ascii=False))
            continue
        if conversation.last is None or conversation.last is before:  # a command
            continue
        if as_json:
            say(json.dumps(conversation.last.to_dict(), ensure_ascii=False))
        if conversation.last.interrupted:
            raise KeyboardInterrupt


def ask(conversation: Conversation, lines: Lines, call: ToolCall) -> str:
    """The result of a call whose function is not known: the next message."""
    conversation.screen.note(f"the next line is the result of {write_call(call)}")
    text = lines.read()
    return "error: there is no result" if text is None else text
