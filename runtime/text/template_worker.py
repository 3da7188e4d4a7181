"""The process that chat templates run in, started by `exaone_export.runtime.text.chat_templates`.

A template is a program of whoever made the checkpoint. transformers' sandbox keeps it from Python's objects, and
nothing keeps it from running for ever or from multiplying a string until memory is gone. So it runs here, where the
system ends what passes a limit, and what it has written is read back as text.

One request is a line of JSON on stdin, one answer a line of JSON on stdout.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from typing import Any

_FAILURES = (MemoryError, RecursionError)


def main() -> None:
    """Answer requests until stdin ends."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Output of libraries must not mix with the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from transformers.utils import chat_template_utils

    _limit_memory(memory)
    answers.write(b'{"ready": true}\n')
    answers.flush()
    for line in requests:
        _limit_time(seconds)
        answer = _answer(chat_template_utils, line)
        if _is_spent(seconds):
            answer["last"] = "the next prompt needs another process"
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _answer(templates: Any, line: bytes) -> dict[str, str]:
    try:
        request = json.loads(line)
        rendered, _ = templates.render_jinja_template(**request["arguments"])
        text = rendered[0]
        if len(text) > request["most"]:
            return {"failure": "length"}
        text.encode()
    except _FAILURES as error:
        return {"failure": type(error).__name__}
    except Exception as error:  # noqa: BLE001 - whatever a template raises is reported to the caller
        return {"error": f"{error or type(error).__name__}"[:1000]}
    return {"text": text}


def _limit_memory(more: int) -> None:
    """Let the process grow by ``more`` bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - pathlib is not loaded otherwise
        size = int(file.read().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, size + more)


def _limit_time(seconds: int) -> None:
    """End the process after this much of the processor's time."""
    _lower(resource.RLIMIT_CPU, _used() + seconds)


def _lower(kind: int, limit: int) -> None:
    """Set a soft limit; the hard one is of the environment (``ulimit``), and only root could raise it."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _is_spent(seconds: int) -> bool:
    """Whether the environment's limit leaves the next prompt less time than it may have."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return hard != resource.RLIM_INFINITY and _used() + seconds > hard


def _used() -> int:
    """Seconds of the processor's time, the begun one included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return math.ceil(used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
