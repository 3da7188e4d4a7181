"""What is printed of a conversation: answers, and around them reasoning, tool calls, notes and signs of life."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from typing import TextIO

from exaone_export.runtime.text.tool_calls import ToolCall
from exaone_export.terminal_text import escape, one_line

from ..output import say

__all__ = ["Screen", "write_call"]

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"
_ERASE_LINE = "\r\x1b[K"
_DOT_EVERY = 16  # tokens, on a terminal that cannot rewrite a line
_SLOW_SECONDS = 0.5
_MOST_SHOWN = 400  # characters of a call or a result


class Screen:
    """Prints answers on stdout, and everything else on ``notes``.

    Args:
        notes: stdout as well on a terminal.
        says: Whether answers are printed.
        is_terminal: Whether a person watches ``notes``, so that a line can be rewritten and text can be dim.

    Attributes:
        folded: Whether reasoning is shown as one line.
    """

    def __init__(self, notes: TextIO, *, is_terminal: bool, folded: bool, says: bool = True) -> None:
        capable = is_terminal and os.environ.get("TERM", "dumb") != "dumb"
        self._notes, self._rewrites, self._dots = notes, capable, is_terminal and not capable
        self._styled = capable and not os.environ.get("NO_COLOR")
        self.folded, self._says = folded, says
        self._begun = False  # whether the line of `notes` has text
        self._answered = False  # whether that of stdout has
        self._life = self._thinks = False
        self._dotted = 0
        self._since = 0.0

    def begin_turn(self) -> None:
        """A turn of the model begins."""
        self._since, self._thinks, self._dotted = time.monotonic(), False, 0

    def think(self, text: str, tokens: int) -> None:
        """Show a piece of reasoning; ``tokens`` are those of the turn so far."""
        if self.folded:
            self._thinks = True
            self._show_life(f"thinking, {tokens:,} tokens", tokens)
            return
        if not self._thinks:
            self._thinks = True
            self.note("thinking:")
        self._end_life()
        self._write(escape(text), _DIM)
        self._begun = not text.endswith("\n")

    def end_thinking(self, tokens: int) -> None:
        """Show how long the reasoning was, if there was any."""
        if self._thinks:
            self._thinks = False
            self.note(f"thought for {tokens:,} tokens")

    def say(self, text: str) -> None:
        """Show a piece of the answer."""
        self._end_life()
        self._end_line()
        if not self._says:
            return
        say(text, nl=False)
        sys.stdout.flush()
        self._answered = not text.endswith("\n")

    def end_answer(self) -> None:
        """End the line of the answer."""
        self._end_life()
        if self._answered:
            say("")
            self._answered = False

    def call(self, call: ToolCall) -> None:
        """Show a tool call."""
        self.note(f"call {_shorten(write_call(call))}")

    def result(self, call: ToolCall, text: str) -> None:
        """Show what it gave."""
        self.note(f"{call.name} gave {_shorten(text)}")

    def note(self, text: str) -> None:
        """Show lines that are not part of the answer."""
        self._show(text, _DIM)

    def tell(self, text: str) -> None:
        """Show what a command was given for."""
        self._show(text, "")

    def error(self, sentence: str) -> None:
        """Show an error."""
        self._show(f"error: {one_line(sentence)}", _RED)

    def show_progress(self, _step: str, done: int, total: int) -> None:
        """Show how much of a long prompt is read; called by another thread, before the first token."""
        if done < total and time.monotonic() - self._since > _SLOW_SECONDS and self._rewrites:
            self._show_life(f"reading, {done:,} of {total:,} tokens", 0)

    def show_loading(self, name: str, seconds: float) -> None:
        """Show that the model is loaded, and for how long."""
        if self._rewrites:
            self._show_life(f"loading {name}, {seconds:.0f} s", 0)

    def _show(self, text: str, style: str) -> None:
        self._end_life()
        if self._notes is sys.stdout:
            self.end_answer()
        self._end_line()
        width = self._columns() if self._rewrites else 0
        for line in escape(text).split("\n"):
            self._write((_fill(line, width) if width and len(line) >= width else line) + "\n", style)

    def _columns(self) -> int:
        return max(shutil.get_terminal_size().columns, 20)

    def _end_line(self) -> None:
        if self._begun:
            self._write("\n", "")
            self._begun = False

    def _show_life(self, text: str, tokens: int) -> None:
        """A line that the next output replaces; dots where no line can be replaced, and nothing in a file."""
        if self._rewrites:
            if self._notes is sys.stdout:
                self.end_answer()
            self._end_line()
            self._write(_ERASE_LINE, "")
            self._write(text[: self._columns() - 1], _DIM)
            self._life = True
        elif self._dots and tokens >= self._dotted + _DOT_EVERY:
            self._dotted = tokens
            self._write(".", "")
            self._begun = True

    def _end_life(self) -> None:
        if self._life:
            self._write(_ERASE_LINE, "")
            self._life = False

    def _write(self, text: str, style: str) -> None:
        self._notes.write(f"{style}{text}{_PLAIN}" if self._styled and style else text)
        self._notes.flush()


def _fill(line: str, width: int) -> str:
    """A line as several, between words; a path stays whole."""
    return textwrap.fill(line, width, break_on_hyphens=False, break_long_words=False)


def write_call(call: ToolCall) -> str:
    """The call as Python writes it."""
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


def _shorten(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}… ({len(text):,} characters)"
