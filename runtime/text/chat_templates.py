"""Chat templates, applied under limits: a template that does not end, or fills the memory, ends in an error.

The alternative would be a thread with a clock: Python cannot interrupt a product of two large numbers or a string that
is multiplied, and cannot give back the memory of either. A process can be ended. It costs the start of one, a tenth of
a second beside the loading of the model, once; a prompt then takes a fraction of a millisecond more.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from exaone_export.errors import ChatTemplateError
from exaone_export.files.unicode_text import check_unicode
from exaone_export.terminal_text import last_line

__all__ = ["MAX_CHARACTERS", "MEMORY_BYTES", "REFUSES", "SECONDS", "Templates", "shared"]

SECONDS = 10
"""Of the processor's time that one prompt may take, so that a busy machine refuses nothing."""

MEMORY_BYTES = 64 << 20
"""The most that the process may grow by."""

MAX_CHARACTERS = 4 << 20
"""Of a rendered prompt: several times the longest context."""

REFUSES = "the chat template refuses the messages: "
"""How an error begins if a template raises; the template's message follows."""

_PATIENCE = 600  # Seconds of wall time: a template cannot wait for anything, so only a stopped machine needs it.
_MOST_SAID = 4096
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
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer, self._owner, self._greeted = bytearray(), os.getpid(), False
        self._errors: IO[bytes] | None = None

    def start(self) -> None:
        """Begin to start the process, without waiting for it."""
        with self._lock:
            self._started()

    def render(self, **arguments: Any) -> str:
        """Apply a template.

        Args:
            arguments: As JSON values: ``conversations``, a list of one; ``chat_template``, its text; ``tools``; and
                what else the template is given. They are named as those of transformers' ``render_jinja_template``.

        Raises:
            ChatTemplateError: The template raises, or passes a limit, or a text is not Unicode.
        """
        try:
            request = json.dumps({"arguments": arguments, "most": MAX_CHARACTERS}, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as cause:
            raise ChatTemplateError(
                f"the messages are not JSON ({cause}); pass strings, numbers, lists and objects."
            ) from cause
        check_unicode(request, "the chat", ChatTemplateError)
        with self._lock:
            try:
                answer = self._ask(request.encode() + b"\n")
            except BaseException:
                self._end()  # its answer would be taken for the next request's
                raise
        if "error" in answer:
            raise ChatTemplateError(f"{REFUSES}{_one_line(answer['error'])}.")
        if "failure" in answer:
            raise ChatTemplateError(f"{_failure(answer['failure'], self._memory)}; {_FIX}.")
        return answer["text"]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes) -> dict[str, str]:
        process, fresh = self._started()
        if fresh:
            try:
                self._read(process, time.monotonic() + _PATIENCE)
            except (EOFError, TimeoutError) as cause:
                process.kill()
                raise ChatTemplateError(
                    f"the process that applies chat templates did not start{self._said(process)}; run: "
                    f"{sys.executable} -c 'import jinja2', and fix what it reports."
                ) from cause
        deadline = time.monotonic() + _PATIENCE
        assert process.stdin is not None
        try:
            _write(process.stdin.fileno(), request, deadline)
            answer: dict[str, str] = json.loads(self._read(process, deadline))
        except (TimeoutError, EOFError, BrokenPipeError) as cause:
            process.kill()  # Does nothing where it has ended.
            if isinstance(cause, TimeoutError) or process.wait() == -signal.SIGXCPU:
                what = f"did not end within {self._seconds} seconds"
            else:
                limit = f"{self._memory >> 20} MiB{_environment(resource.RLIMIT_AS, resource.RLIMIT_CPU)}"
                what = f"ended the process that it ran in, probably with more than {limit}{self._said(process)}"
            raise ChatTemplateError(f"the chat template {what}; {_FIX}.") from cause
        if answer.pop("last", None):
            self._end()
        return answer

    def _said(self, process: subprocess.Popen[bytes]) -> str:
        """The last line that an ended process has written to stderr, in brackets."""
        process.wait()
        if self._errors is None:
            return ""
        size = os.fstat(self._errors.fileno()).st_size
        data = os.pread(self._errors.fileno(), _MOST_SAID, max(size - _MOST_SAID, 0))
        line = last_line(data.decode(errors="replace"))
        return f" (it wrote: {line})" if line else ""

    def _started(self) -> tuple[subprocess.Popen[bytes], bool]:
        """The process, and whether it has not written anything yet."""
        if self._owner != os.getpid():  # After a fork, the pipes are the parent's.
            self._process, self._buffer, self._owner = None, bytearray(), os.getpid()
        if self._process is not None and self._process.poll() is None:
            return self._process, not self._greeted
        self._end()
        self._errors = os.fdopen(os.memfd_create("errors"), "rb", buffering=0)  # an unread pipe would fill up
        process = subprocess.Popen(
            # Isolated (-I), files beside the worker are not imported as libraries; without site (-S) it starts sooner.
            [sys.executable, "-I", "-S", _WORKER, str(self._memory), str(self._seconds), *_library_folders()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is handled by the caller
        )
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._process, self._greeted = process, False
        return process, True

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        while (end := self._buffer.find(b"\n")) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise TimeoutError
            piece = os.read(process.stdout.fileno(), 1 << 20)
            if not piece:
                raise EOFError
            self._buffer += piece
            if len(self._buffer) > 8 * MAX_CHARACTERS:
                raise EOFError
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._greeted = True
        return line

    def _end(self) -> None:
        process, self._process = self._process, None
        self._buffer.clear()
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _library_folders() -> list[str]:
    """Where jinja2 and what it imports are; none where they are not installed, which the process then says."""
    found = [importlib.util.find_spec(name) for name in ("jinja2", "markupsafe")]
    folders = [str(Path(spec.origin).parents[1]) for spec in found if spec is not None and spec.origin]
    return list(dict.fromkeys(folders))


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


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    while view:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([], [descriptor], [], left)[1]:
            raise TimeoutError
        view = view[os.write(descriptor, view) :]


def _one_line(text: str) -> str:
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown[:300].rstrip(". ")


_shared = Templates()
atexit.register(_shared.close)


def shared() -> Templates:
    """The process that all prompts of this program share."""
    return _shared
