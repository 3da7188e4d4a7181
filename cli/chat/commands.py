"""What a line does that begins with a slash."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from exaone_export.errors import ConversationError, UnsupportedOptionError
from exaone_export.files.unicode_text import check_unicode
from exaone_export.runtime.runner.presets import MODES

from ..paths import PATH
from .conversation import Conversation
from .saved import read_conversation, write_conversation
from .tools import describe_tools

__all__ = ["COMMANDS", "Leave", "take"]


class Leave(Exception):  # noqa: N818 - nothing is wrong
    """The user leaves."""


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        usage: What is written behind its name.
        help: What it does.
        run: Does it, with what was written behind the name.
    """

    usage: str
    help: str
    run: Callable[[Conversation, str], None]


def take(conversation: Conversation, text: str) -> None:
    """Do what the user wrote: a command, or a message, which begins with ``//`` where it begins with a slash.

    Raises:
        Leave: The user leaves.
        ExaoneExportError: What was written is refused; the conversation can go on.
    """
    if not text.strip():
        return
    if not text.startswith("/") or text.startswith("//"):
        conversation.send(text.removeprefix("/"))
        return
    name, _, argument = text[1:].strip().partition(" ")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.7)
        hint = f"did you mean /{near[0]}?" if near else "/help lists the commands."
        raise UnsupportedOptionError(
            f"/{name[:40]} is not a command; a message that begins with a slash is written with two; {hint}"
        )
    try:
        COMMANDS[name].run(conversation, argument.strip())
    except OSError as cause:
        raise ConversationError(f"{cause.filename}: {cause.strerror}; give another file.") from cause


def _help(conversation: Conversation, argument: str) -> None:
    rows = [(f"/{name} {command.usage}".strip(), command.help) for name, command in COMMANDS.items()]
    width = max(len(usage) for usage, _ in rows)
    lines = [f"{usage:{width}}  {what}" for usage, what in rows]
    conversation.screen.tell("\n".join([*lines, "A message that begins with a slash is written with two: //"]))


def _think(conversation: Conversation, argument: str) -> None:
    screen = conversation.screen
    if argument in ("on", "off"):
        conversation.change(thinking=argument == "on")
    elif argument in ("fold", "show"):
        screen.folded = argument == "fold"
        thoughts = [turn.answer.thinking for turn in conversation.last.turns] if conversation.last else []
        if not screen.folded and (shown := [thought for thought in thoughts if thought]):
            screen.note("\n".join(shown))
    elif argument:
        raise UnsupportedOptionError(f"/think does not take {argument!r:.40}; use on, off, fold or show.")
    reasons = conversation.reasons
    told = "the model reasons before it answers" if reasons else "the model answers without reasoning"
    if reasons != conversation.settings.thinking:
        told += ", which /think does not change"
    screen.tell(f"{told}; reasoning is {'folded' if screen.folded else 'shown'}.")


def _mode(conversation: Conversation, argument: str) -> None:
    if argument and argument not in MODES:
        raise UnsupportedOptionError(f"/mode does not take {argument!r:.40}; use {' or '.join(MODES)}.")
    if argument:
        conversation.change(mode=argument)
    mode, sampling = conversation.settings.mode, conversation.runner.defaults.sampling(conversation.sampling)
    how = f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}" if sampling.draws else "greedy"
    conversation.screen.tell(f"{f'mode {mode}' if mode else 'no mode'}: {how}.")


def _tools(conversation: Conversation, argument: str) -> None:
    conversation.screen.tell(describe_tools(conversation.settings.tools))


def _system(conversation: Conversation, argument: str) -> None:
    messages = list(conversation.chat.messages)
    rest = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if argument:
        check_unicode(argument, "the system message", UnsupportedOptionError)
        system = [] if argument == "off" else [{"role": "system", "content": argument}]
        conversation.replace(messages := [*system, *rest])
    found = len(messages) > len(rest)
    conversation.screen.tell(f"system message: {messages[0]['content']}" if found else "there is no system message.")


def _reset(conversation: Conversation, argument: str) -> None:
    conversation.replace([each for each in conversation.chat.messages[:1] if each["role"] == "system"])
    conversation.file = None
    conversation.screen.tell("the conversation is empty.")


def _undo(conversation: Conversation, argument: str) -> None:
    messages = conversation.chat.messages
    asked = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        raise UnsupportedOptionError("there is nothing to undo; the conversation is empty.")
    text = messages[asked[-1]]["content"].split("\n")[0]
    conversation.replace(list(messages[: asked[-1]]))
    conversation.screen.tell(f"took back: {text[:60]}{'…' if len(text) > 60 else ''}")


def _save(conversation: Conversation, argument: str) -> None:
    path = _path(argument) if argument else conversation.file
    if path is None:
        raise ConversationError("/save needs the name of a file; write: /save FILE.")
    if path.exists() and path != conversation.file:
        raise ConversationError(
            f"{path} exists, and is not the file of this conversation; give another name, or remove it first."
        )
    messages = conversation.chat.messages
    write_conversation(path, messages)
    conversation.file = path
    conversation.screen.tell(f"saved {_count(len(messages))} to {path}.")


def _load(conversation: Conversation, argument: str) -> None:
    if not argument:
        raise ConversationError("/load needs the name of a file; write: /load FILE.")
    path = _path(argument)
    messages = read_conversation(path)
    used = conversation.replace(list(messages))
    conversation.file = path
    conversation.screen.tell(f"loaded {_count(len(messages))}, {used:,} tokens, from {path}.")


def _exit(conversation: Conversation, argument: str) -> None:
    raise Leave


def _count(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"


def _path(name: str) -> Path:
    try:
        path: Path = PATH.convert(name, None, None)
    except click.BadParameter as cause:
        raise ConversationError(f"{cause.message.rstrip('.')}; give another file.") from cause
    return path.absolute()


COMMANDS = {
    "help": Command("", "this list", _help),
    "think": Command("on|off|fold|show", "reason or not; show reasoning, or fold it to a line", _think),
    "mode": Command("reasoning|default", "sample as is recommended with or without reasoning", _mode),
    "tools": Command("", "the functions that the model may call", _tools),
    "system": Command("TEXT|off", "show, replace or remove the system message", _system),
    "undo": Command("", "take back the last message and its answer", _undo),
    "reset": Command("", "begin again, with the same system message", _reset),
    "save": Command("FILE", "save the conversation; without FILE, to its last one", _save),
    "load": Command("FILE", "go on from a saved conversation", _load),
    "exit": Command("", "leave, as Ctrl-D does", _exit),
}
"""By name."""
