"""A conversation in a terminal: editing, history and keys are prompt_toolkit's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
from collections.abc import Callable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.utils import is_dumb_terminal

from exaone_export.errors import ExaoneExportError
from exaone_export.runtime.text.tool_calls import ToolCall

from .commands import Leave, take
from .conversation import Conversation
from .history import open_history
from .plain import Lines
from .shown import write_call

__all__ = ["ask", "converse"]

_LEAVE = "Ctrl-D or /exit leaves; Alt+Enter begins a new line."


def converse(conversation: Conversation, *, keeps_history: bool) -> None:
    """Take messages and commands until the user leaves.

    Args:
        conversation: With a screen that shows everything on stdout.
        keeps_history: Whether what is typed is kept in a file.

    Raises:
        ExaoneExportError: The model could not be loaded.
    """
    screen = conversation.screen
    read = _read_dumb if is_dumb_terminal() else _reader(conversation, keeps_history=keeps_history)
    screen.note(f"/help lists the commands; {_LEAVE}")
    goes_on = True
    while goes_on:
        try:
            goes_on = _take_next(conversation, read)
        except KeyboardInterrupt:  # wherever it came
            screen.note("interrupted.")
    if not conversation.loading.ended:
        # What is loaded is native code, which nothing can interrupt, and which must not run while Python ends.
        sys.stdout.flush()
        os._exit(0)


def _take_next(conversation: Conversation, read: Callable[[], str | None]) -> bool:
    """Take a message or a command, and tell whether the conversation goes on."""
    screen = conversation.screen
    try:
        text = read()
        if text is None:
            screen.note(_LEAVE)
        elif text.strip():
            with _no_echo():
                take(conversation, text)
                screen.tell("")
    except (EOFError, Leave):
        return False
    except ExaoneExportError as error:
        if error is conversation.loading.error:
            raise
        screen.error(str(error))
        screen.tell("")
    return True


def ask(conversation: Conversation, call: ToolCall) -> str:
    """The result of a call whose function is not known: what the user types."""
    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    try:
        return session.prompt(f"result of {call.name}: ")
    except EOFError:
        return f"error: {write_call(call)} has no result"


def _read_dumb() -> str | None:
    """A line, of a terminal that can do nothing; a backslash at its end continues it."""
    sys.stdout.write("> ")
    sys.stdout.flush()
    try:
        text = Lines(sys.stdin.buffer).read()
    except KeyboardInterrupt:
        text = ""
    if not text:
        sys.stdout.write("\n")
    if text is None:
        raise EOFError
    return text or None


def _reader(conversation: Conversation, *, keeps_history: bool) -> Callable[[], str | None]:
    """Reads what the user types; Ctrl-C takes it back, and gives None where there is nothing."""
    history: History = InMemoryHistory()
    if keeps_history:
        try:
            history = open_history()
        except OSError as error:
            conversation.screen.note(f"the history is not kept: {error.filename}: {error.strerror}.")
    session: PromptSession[str] = PromptSession(
        history=history,
        multiline=True,
        key_bindings=_keys(),
        prompt_continuation=lambda width, number, wrapped: "" if wrapped else ". ",
    )

    def read() -> str | None:
        try:
            return _read(session, conversation)
        except KeyboardInterrupt:
            return "" if session.default_buffer.text else None

    return read


def _read(session: PromptSession[str], conversation: Conversation) -> str:
    """What the user types; a model that cannot be loaded ends it."""
    loading = conversation.loading
    if loading.error is not None:
        raise loading.error

    def show_loading() -> str:
        if loading.ended or get_app().is_done:
            return ""
        return f"loading {conversation.name}, {loading.seconds:.0f} s"

    async def watch() -> None:
        app = get_app()
        while not loading.ended:
            await asyncio.sleep(0.1)
            app.invalidate()
        if loading.error is not None:
            app.exit(exception=loading.error, style="class:aborting")

    def begin() -> None:
        get_app().create_background_task(watch())

    return session.prompt("> ", rprompt=show_loading, pre_run=None if loading.ended else begin)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        """Send it; behind a backslash, begin a new line in its place."""
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


@contextlib.contextmanager
def _no_echo() -> Iterator[None]:
    """Keep what is typed meanwhile for the next prompt, and out of the answer."""
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (termios.error, ValueError, OSError):
        yield
        return
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
