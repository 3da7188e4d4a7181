"""Records sessions in a terminal for the documentation: `make docs-terminal`.

Every session runs real commands in a pseudo-terminal, of 80 and of 200 columns, in a temporary folder that holds an
artifact of the tiny checkpoint. What they print goes through a terminal emulator; its screen is written to
`docs/images/NAME-COLUMNS.svg`, and the bytes with their times to `docs/images/NAME-COLUMNS.cast` (asciinema,
https://docs.asciinema.org/manual/asciicast/v2). Names of sessions as arguments record those alone.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

from exaone_export.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COLUMNS = (80, 200)
ROWS = 100  # more than a session needs; those that it leaves empty are cut off

_PATIENCE = 60  # seconds without output
_TYPING = 0.05  # seconds a key
_NAMES = {"brown": "yellow", "brightbrown": "bright_yellow"}


@dataclass(frozen=True)
class Recording:
    """A session.

    Attributes:
        name: Of its files.
        commands: What follows ``exaone-export`` in each command.
        keys: What is typed into the last command, one text at each of its prompts, ``>``.
    """

    name: str
    commands: Sequence[Sequence[str]]
    keys: Sequence[str] = field(default=())


RECORDINGS = [
    Recording("generate", [["generate", "tiny", "-p", "Who are you?"], ["generate", "tiny", "-p", "What is 27 + 45?"]]),
    Recording("thinking", [["generate", "tiny", "-p", "What is 38 + 47?", "--thinking", "--seed", "1"]]),
    Recording("plan", [["plan", "1.2b", "--precision", "int4", "--max-length", "8192"]]),
    Recording("inspect", [["inspect", "tiny"]]),
]
if "chat" in COMMANDS:
    RECORDINGS.append(
        Recording("chat", [["chat", "tiny"]], ["What is 38 + 47?\r", "/reset\r", "Who are you?\r", "/exit\r"])
    )


def main() -> None:
    """Record the sessions named as arguments, by default all."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        export = ["export", str(ROOT / "examples" / "exaone4-tiny"), "tiny", "--max-length", "512"]
        subprocess.run(_argv(export), cwd=folder, check=True, capture_output=True)
        for recording in RECORDINGS:
            if not sys.argv[1:] or recording.name in sys.argv[1:]:
                for columns in COLUMNS:
                    print(f"{recording.name}, {columns} columns", flush=True)
                    _Terminal(columns, Path(folder)).record(recording)


def _argv(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "exaone_export", *words]


class _Terminal:
    """A terminal of some width, its screen, and what was written to it."""

    def __init__(self, columns: int, folder: Path) -> None:
        self._columns, self._folder = columns, folder
        self._screen = pyte.Screen(columns, ROWS)
        self._screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.ByteStream(self._screen)
        self._began, self._events = time.monotonic(), list[tuple[float, str]]()

    def record(self, recording: Recording) -> None:
        """Run the commands, and write what they showed."""
        for index, words in enumerate(recording.commands):
            is_last = index == len(recording.commands) - 1
            self._take(f"$ {shlex.join(['exaone-export', *words])}\r\n".encode())
            self._run(words, recording.keys if is_last else ())
            self._take(b"" if is_last else b"\r\n")
        stem = f"{recording.name}-{self._columns}"
        (IMAGES / f"{stem}.svg").write_text(self._svg(stem), encoding="utf-8")
        (IMAGES / f"{stem}.cast").write_text(self._cast(), encoding="utf-8")

    def _run(self, words: Sequence[str], keys: Sequence[str]) -> None:
        process, terminal = pty.fork()
        if process == 0:
            os.chdir(self._folder)
            os.environ |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", "HOME": str(self._folder)}
            for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
                os.environ.pop(name, None)
            os.execv(sys.executable, _argv(words))
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, self._columns, 0, 0))
        os.kill(process, signal.SIGWINCH)
        # Where the cursor is, a line editor asks the terminal.
        self._screen.write_process_input = lambda data: os.write(terminal, data.encode())
        left, typing, prompt = list(keys), list[str](), -1
        while True:
            if typing and not select.select([terminal], [], [], _TYPING)[0]:
                os.write(terminal, typing.pop(0).encode())
            elif (piece := _read(terminal)) is None:
                break
            else:
                self._take(piece)
                row = self._screen.cursor.y
                if self._screen.display[row].strip() == ">" and row != prompt and left:
                    prompt, typing = row, list(left.pop(0))
        os.close(terminal)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status != 0 or left:
            raise SystemExit(f"{shlex.join(words)}: exit status {status}, and not typed: {left}")

    def _take(self, piece: bytes) -> None:
        self._events.append((time.monotonic() - self._began, piece.decode(errors="replace")))
        self._stream.feed(piece)

    def _cast(self) -> str:
        lines = [{"version": 2, "width": self._columns, "height": 24}, *([at, "o", text] for at, text in self._events)]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    def _svg(self, stem: str) -> str:
        lines = [self._line(row) for row in range(ROWS)]
        while not lines[-1].plain.strip():
            del lines[-1]
        console = Console(
            record=True, width=self._columns, file=io.StringIO(), force_terminal=True, color_system="truecolor"
        )
        for line in lines:
            console.print(line, no_wrap=True, crop=False, soft_wrap=True)
        svg = console.export_svg(title="exaone-export", unique_id=stem)
        return re.sub(r"@font-face \{[^}]*\}\s*", "", svg)  # a viewer's own font, and nothing from elsewhere

    def _line(self, row: int) -> Text:
        line, cells = Text(), self._screen.buffer[row]
        for column in range(self._columns):
            cell = cells[column]
            line.append(cell.data, _style(cell))  # behind a wide character there is a cell without one
        line.rstrip()
        return line


def _read(terminal: int) -> bytes | None:
    """What was written next; None at the end."""
    if not select.select([terminal], [], [], _PATIENCE)[0]:
        raise SystemExit(f"nothing was printed for {_PATIENCE} seconds")
    try:
        return os.read(terminal, 1 << 16) or None
    except OSError:  # as Linux says that nobody writes any more
        return None


def _style(cell: pyte.screens.Char) -> Style:
    return Style(
        color=_colour(cell.fg),
        bgcolor=_colour(cell.bg),
        bold=cell.bold,
        italic=cell.italics,
        underline=cell.underscore,
        strike=cell.strikethrough,
        reverse=cell.reverse,
    )


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return _NAMES.get(name, name.replace("bright", "bright_"))


if __name__ == "__main__":
    main()
