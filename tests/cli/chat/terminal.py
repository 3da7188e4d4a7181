"""A command in a pseudo-terminal, and what its screen shows."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from fcntl import ioctl
from pathlib import Path
from struct import pack
from termios import TIOCSWINSZ
from types import TracebackType
from typing import Any

import pyte


class _Screen(pyte.HistoryScreen):
    """Answers what prompt_toolkit asks a terminal: where the cursor is."""

    def __init__(self, columns: int, lines: int, descriptor: int) -> None:
        super().__init__(columns, lines, history=1000)
        self._descriptor = descriptor

    def write_process_input(self, data: str) -> None:
        os.write(self._descriptor, data.encode())

    def select_graphic_rendition(self, *attrs: int, private: bool = False) -> None:
        # pyte 0.8.2 does not know dim text; here it is shown in the colour of its own.
        super().select_graphic_rendition(*(34 if each == 2 else each for each in attrs))


class Terminal:
    """Runs ``exaone-export`` in a terminal.

    Args:
        arguments: Of the command.
        home: The user's; nothing of the real one is read.
        columns: Of the terminal.
        environment: More of it.
    """

    def __init__(self, *arguments: object, home: Path, columns: int = 80, **environment: str) -> None:
        self.pid, self._descriptor = pty.fork()
        if not self.pid:
            names = {"TERM": "xterm-256color", "HOME": str(home), "LC_ALL": "C.UTF-8", **environment}
            kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "XDG_STATE_HOME")}
            command = [sys.executable, "-m", "exaone_export", *map(str, arguments)]
            os.execve(sys.executable, command, kept | names)
        ioctl(self._descriptor, TIOCSWINSZ, pack("HHHH", 40, columns, 0, 0))
        self.screen = _Screen(columns, 40, self._descriptor)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.status: int | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stderr.write(self.text)
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._descriptor)

    @property
    def lines(self) -> list[str]:
        """What the screen shows, and what has left it at the top."""
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip() + "\n"

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def read(self, seconds: float) -> bool:
        """Take what comes next; False at the end."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # of Linux, once the other side is closed
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)

    def wait_for(self, text: str, times: int = 1, seconds: float = 30) -> None:
        """Wait until the screen shows a text this many times."""
        until = time.monotonic() + seconds
        while self.text.count(text) < times:
            assert time.monotonic() < until and self.read(0.05), f"{text!r} does not come:\n{self.text}"

    def ask(self, text: str, answer: str, times: int = 1) -> None:
        """Type a line at the prompt, and wait for what it gives."""
        self.wait_for_prompt()
        self.type(text + "\r")
        self.wait_for(answer, times)

    def wait_for_prompt(self) -> None:
        """Wait until an empty prompt is the last line."""
        until = time.monotonic() + 30
        while not self.text.endswith("\n>\n"):
            assert time.monotonic() < until and self.read(0.05), self.text

    def end(self) -> int:
        """Wait until it has ended, and give its exit status."""
        until = time.monotonic() + 30
        while self.read(0.1):
            assert time.monotonic() < until, self.text
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def style_of(self, text: str) -> Any:
        """The first character of a line that holds a text, with its colours."""
        row = next(row for row, line in enumerate(self.screen.display) if text in line)
        return self.screen.buffer[row][self.screen.display[row].index(text)]
