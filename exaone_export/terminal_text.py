"""Text that a terminal shows and does not obey: names and values come out of files of unknown origin."""

from __future__ import annotations

import re

__all__ = ["brief", "escape", "last_line", "one_line"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but for tab and line feed, and those that change lines or directions."""


def escape(text: str) -> str:
    r"""Write control characters as JSON does (``\u001b``); lines stay lines, and JSON stays JSON of the same value."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    r"""As `escape`, and line feeds and tabs are written as ``\n`` and ``\t`` too."""
    return escape(text).replace("\n", "\\n").replace("\t", "\\t")


def last_line(text: str, most: int = 200) -> str:
    """The last line of a text that is not empty, as `one_line`, without a full stop; "" where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return one_line(lines[-1][:most]).rstrip(". ") if lines else ""


def brief(text: str, most: int = 200) -> str:
    """A text for the middle of a sentence: spaces for line breaks and what cannot be printed, and no full stop."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most].rstrip(". ")
