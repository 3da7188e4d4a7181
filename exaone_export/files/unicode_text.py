"""Refuse text that is not Unicode: no tokenizer and no UTF-8 file takes it.

Python hands on a command line's bytes that are not UTF-8 as lone surrogates, and JSON can write half of a pair.
"""

from __future__ import annotations

from ..errors import ExaoneExportError

__all__ = ["check_unicode", "decode_utf8"]

_CONVERT = "convert it to UTF-8 first, for example with: iconv -f ISO-8859-1 -t UTF-8"
_ESCAPED_BYTES = range(0xDC80, 0xDD00)  # of the error handler "surrogateescape", PEP 383


def check_unicode(text: str, name: str, error: type[ExaoneExportError]) -> None:
    """Raise where a text holds a lone surrogate.

    Args:
        text: What is checked.
        name: What the text is called in messages, in the singular.
        error: What is raised.

    Raises:
        ExaoneExportError: Of the type ``error``.
    """
    try:
        text.encode()
    except UnicodeEncodeError as cause:
        found = ord(text[cause.start])
        if found in _ESCAPED_BYTES:
            raise error(f"{name} holds the byte {found - 0xDC00:#x}, which is not UTF-8; {_CONVERT}.") from cause
        raise error(
            f"{name} holds half of a surrogate pair, \\u{found:04x}, which is not Unicode; write the whole character."
        ) from cause


def decode_utf8(data: bytes, name: str, error: type[ExaoneExportError]) -> str:
    """The text that bytes are in UTF-8.

    Args:
        data: The bytes.
        name: What they are called in messages, in the singular.
        error: What is raised.

    Raises:
        ExaoneExportError: Of the type ``error``: they are not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as cause:
        raise error(
            f"{name} holds the byte {data[cause.start]:#x} at offset {cause.start}, which is not UTF-8; {_CONVERT}."
        ) from cause
