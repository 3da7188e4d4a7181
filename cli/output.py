"""What commands print: results on stdout, sentences on stderr, and nothing that a terminal obeys."""

from __future__ import annotations

import json
import logging
import re
import sys

import click

from exaone_export.terminal_text import escape, one_line

__all__ = ["log_in_lines", "say", "tell"]

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def say(text: str, *, nl: bool = True) -> None:
    """Print a result: control characters are escaped for a terminal, and what its encoding has not everywhere."""
    if sys.stdout.isatty():
        text = escape(text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
    click.echo(text, nl=nl, color=True)  # otherwise click takes colours out of what goes to a file


def tell(sentence: str) -> None:
    """Print a sentence on stderr, as one line wherever it goes."""
    click.echo(one_line(sentence), err=True)


def log_in_lines() -> None:
    """Print warnings of this package's logs, which name files and their values, as `tell` prints sentences."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))
