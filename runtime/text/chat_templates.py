"""Chat templates, applied under limits: a template that does not end, or fills the memory, ends in an error.

A prompt takes a fraction of a millisecond more than in this process.
"""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

from exaone_export.errors import ChatTemplateError
from exaone_export.files.unicode_text import check_unicode
from exaone_export.terminal_text import brief

from ..limited_process import LimitedProcess, ProcessEndedError

__all__ = ["MAX_CHARACTERS", "MEMORY_BYTES", "REFUSES", "SECONDS", "Templates", "shared"]

SECONDS = 10
"""Of the processor's time that one prompt may take, so that a busy machine refuses nothing."""

MEMORY_BYTES = 64 << 20
"""The most that the process may grow by."""

MAX_CHARACTERS = 4 << 20
"""Of a rendered prompt: several times the longest context."""

REFUSES = "the chat template refuses the messages: "
"""How an error begins if a template raises; the template's message follows."""

_FIX = "use the chat template of the published checkpoint, or pass plain prompts"
_WORKER = Path(__file__).with_name("template_worker.py")


class Templates:
    """A process that applies chat templates; it is started with the first prompt, and again after it was ended.

    Args:
        seconds: Of the processor's time that one prompt may take.
        memory: Bytes that the process may grow by.
    """

    def __init__(self, seconds: int = SECONDS, memory: int = MEMORY_BYTES) -> None:
        self._seconds, self._memory = seconds, memory
        self._worker = LimitedProcess(
            _WORKER,
            (memory, seconds),
            ("jinja2", "markupsafe"),
            most_bytes=8 * MAX_CHARACTERS,
            task="applies chat templates",
        )

    def start(self) -> None:
        """Begin to start the process, without waiting for it."""
        self._worker.start()

    def render(self, **arguments: Any) -> str:
        """Apply a template.

        Args:
            arguments: As JSON values: ``conversations``, a list of one; ``chat_template``, its text; ``tools``; and
                what else the template is given. They are named as those of transformers' ``render_jinja_template``.

        Raises:
            ChatTemplateError: The template raises, or passes a limit, or a text is not Unicode.
            ProcessStartError: The process did not start.
        """
        try:
            request = json.dumps({"arguments": arguments, "most": MAX_CHARACTERS}, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as cause:
            raise ChatTemplateError(
                f"the messages are not JSON ({cause}); pass strings, numbers, lists and objects."
            ) from cause
        check_unicode(request, "the chat", ChatTemplateError)
        try:
            answer = self._worker.ask(request)
        except ProcessEndedError as ended:
            raise self._error_of(ended) from ended
        if "error" in answer:
            raise ChatTemplateError(f"{REFUSES}{brief(answer['error'], 300)}.")
        if "failure" in answer:
            raise ChatTemplateError(f"{_failure(answer['failure'], self._memory)}; {_FIX}.")
        text: str = answer["text"]
        return text

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def _error_of(self, ended: ProcessEndedError) -> ChatTemplateError:
        if ended.status in (None, -signal.SIGXCPU):
            return ChatTemplateError(f"the chat template did not end within {self._seconds} seconds; {_FIX}.")
        limit = f"{self._memory >> 20} MiB{_environment(resource.RLIMIT_AS, resource.RLIMIT_CPU)}"
        return ChatTemplateError(
            f"the chat template ended the process that it ran in, probably with more than {limit}{ended.said}; {_FIX}."
        )


def _failure(name: str, memory: int) -> str:
    """The failure of a template, as the start of a sentence."""
    if name == "MemoryError":
        return f"the chat template needs more than {memory >> 20} MiB{_environment(resource.RLIMIT_AS)}"
    if name == "length":
        return f"the chat template wrote more than {MAX_CHARACTERS} characters"
    return "the chat template recurses without end"


_ULIMITS = {resource.RLIMIT_CPU: "-t", resource.RLIMIT_AS: "-v"}


def _environment(*kinds: int) -> str:
    """Limits that the process inherits from this one, and that may be lower than its own."""
    options = [_ULIMITS[kind] for kind in kinds if resource.getrlimit(kind)[1] != resource.RLIM_INFINITY]
    return "".join(f", or than ulimit {option} leaves" for option in options)


_shared = Templates()


def shared() -> Templates:
    """The process that all prompts of this program share."""
    return _shared
