"""The input of a prediction: plain texts, or one JSON object a line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from exaone_export.errors import PromptError
from exaone_export.files import strict_json
from exaone_export.files.unicode_text import check_unicode, decode_utf8
from exaone_export.model.heads import (
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)

from ..text.chat_lines import check_messages

__all__ = ["MAX_LINE_BYTES", "Line", "form_of", "given_texts", "read_lines"]

MAX_LINE_BYTES = 16 << 20

_MESSAGES, _TOOLS, _THINKING = "messages", "tools", "enable_thinking"

# Those that a line must have, and those that it may have beside them.
_Form = tuple[tuple[str, ...], tuple[str, ...]]
_TEXT: _Form = ("text",), ()
_TEXTS: _Form = ("text",), ("text_pair",)
_CHAT: _Form = (_MESSAGES,), (_TOOLS, _THINKING)
_FORMS: Mapping[str, tuple[_Form, ...]] = {
    HIDDEN_STATES: (_TEXTS, _CHAT),
    QUESTION_ANSWERING: ((("question", "context"), ()),),
    SEQUENCE_CLASSIFICATION: (_TEXTS, _CHAT),
    TOKEN_CLASSIFICATION: (_TEXT,),
}


@dataclass(frozen=True)
class Line:
    """One thing to predict.

    Attributes:
        name: What it is called in messages.
        id: Given back with the result: the line's own, or else its number from 1.
        fields: By the names of JSON: texts; or ``messages``, a chat, with what `ChatFormat.encode` takes beside it.
    """

    name: str
    id: Any
    fields: Mapping[str, Any]


def given_texts(texts: Sequence[str], kind: str) -> Iterator[Line]:
    """Texts of the command line.

    Args:
        texts: As given.
        kind: The head's, a key of `exaone_export.model.heads.ARCHITECTURES`.

    Raises:
        PromptError: One is empty, or the head takes no plain texts.
    """
    for number, text in enumerate(texts, 1):
        yield _plain(f"text {number}", number, text, kind)


def form_of(path: Path) -> str | None:
    """One of `options.FORMS`, by the name of a file; None for a pipe, whose first line decides."""
    if not path.is_file():
        return None
    return "jsonl" if path.suffix.lower() in (".jsonl", ".json") else "text"


def read_lines(file: BinaryIO, name: str, kind: str, form: str | None) -> Iterator[Line]:
    """Read lines that are not blank: objects of JSON, or texts as they are.

    Args:
        file: Open for reading; it is read once.
        name: What it is called in messages.
        kind: The head's, a key of `exaone_export.model.heads.ARCHITECTURES`.
        form: One of `options.FORMS`; None for ``jsonl`` where the first line begins with a brace.

    Raises:
        PromptError: A line cannot be used; the message has its number.
    """
    lines = strict_json.numbered_lines(file, name=name, max_bytes=MAX_LINE_BYTES, error=PromptError)
    first = next(lines, None)
    if first is None:
        raise PromptError(f"{name} has no line that is not blank; write one text a line, or one JSON object a line.")
    number, data = first
    if form is None:
        form = "jsonl" if data.lstrip().startswith(b"{") else "text"
    parsed: Iterable[tuple[int, bytes]] = itertools.chain([(number, data)], lines)
    for number, data in parsed:
        line = f"line {number} of {name}"
        if form == "text":
            yield _plain(line, number, decode_utf8(data.rstrip(b"\r\n"), line, PromptError), kind)
        else:
            fields = strict_json.parse_object(data, name=line, error=PromptError)
            identity = _identity(fields.pop("id"), line) if "id" in fields else number
            yield _line(line, identity, fields, kind)


def _identity(value: Any, line: str) -> Any:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError as cause:
        raise PromptError(f"{line} has an 'id' with a number that is out of range; write it as a string.") from cause
    check_unicode(text, f"the 'id' of {line}", PromptError)
    return value


def _plain(name: str, number: int, text: str, kind: str) -> Line:
    if not any(must == ("text",) for must, _ in _FORMS[kind]):
        raise PromptError(
            f"{kind} takes no plain texts; pass JSON lines of {_wanted(kind)}, with --input FILE.jsonl or "
            f"--input-format jsonl."
        )
    return _line(name, number, {"text": text}, kind)


def _line(name: str, identity: Any, fields: Mapping[str, Any], kind: str) -> Line:
    if not any(set(must) <= set(fields) <= {*must, *may} for must, may in _FORMS[kind]):
        given = " and ".join(f"{key[:40]!r}" for key in list(fields)[:4]) or "nothing"
        raise PromptError(
            f"{name} gives {given}, and {kind} takes {_wanted(kind)}, each with or without an 'id'; correct the line."
        )
    for key, value in fields.items():
        if key == _MESSAGES:
            check_messages(value, name=name, error=PromptError)
        elif key == _TOOLS:
            if not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
                raise PromptError(
                    f"{name} has {_TOOLS!r} that are not a list of objects; write schemas of tools there."
                )
        elif key == _THINKING:
            if not isinstance(value, bool):
                raise PromptError(f"{name} has an {_THINKING!r} that is neither true nor false; correct it.")
        elif not isinstance(value, str):
            raise PromptError(f"{name} has a {key!r} that is not a string; write a text there.")
        elif not value:
            raise PromptError(f"{name} has an empty {key!r}; write a text there.")
    return Line(name, identity, fields)


def _wanted(kind: str) -> str:
    def shown(must: Sequence[str], may: Sequence[str]) -> str:
        text = " and ".join(map(repr, must))
        return f"{text} (also {' and '.join(map(repr, may))})" if may else text

    return ", or ".join(shown(must, may) for must, may in _FORMS[kind])
