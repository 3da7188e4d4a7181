"""What was typed before, in a file that only its user may read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from prompt_toolkit.history import FileHistory

__all__ = ["history_file", "open_history"]


def history_file() -> Path:
    """``exaone-export/chat_history`` in ``XDG_STATE_HOME``, or in its default, ``~/.local/state``."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    # The specification has relative ones ignored.
    folder = state if state.is_absolute() else Path("~/.local/state").expanduser()
    return folder / "exaone-export" / "chat_history"


def open_history() -> FileHistory:
    """The history.

    Raises:
        OSError: The file cannot be made.
    """
    path = history_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return _History(path)


class _History(FileHistory):
    def store_string(self, string: str) -> None:
        """Append it; a message that the disk does not take, or that is not Unicode, is not the history's concern."""
        with contextlib.suppress(OSError):
            super().store_string(string.encode(errors="replace").decode())
