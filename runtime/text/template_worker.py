"""The process that chat templates run in, started by `exaone_export.runtime.text.chat_templates`.

A template is a program of whoever made the checkpoint. jinja2's sandbox keeps it from Python's objects, and
nothing keeps it from running for ever or from multiplying a string until memory is gone. So it runs here, where the
system ends what passes a limit, and what it has written is read back as text.

One request is a line of JSON on stdin, one answer a line of JSON on stdout. What a template finds is what transformers
gives it (``render_jinja_template``). Python starts isolated and without its site packages, in a tenth of a second; the
folders of jinja2 and its parts are given.
"""

from __future__ import annotations

import functools
import json
import math
import os
import resource
import sys
from datetime import datetime
from typing import Any

_FAILURES = (MemoryError, RecursionError)


def main() -> None:
    """Answer requests until stdin ends."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    sys.path += sys.argv[3:]
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Output of libraries must not mix with the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    compiled = _compiler()
    _limit_memory(memory)
    answers.write(b'{"ready": true}\n')
    answers.flush()
    for line in requests:
        _limit_time(seconds)
        answer = _answer(compiled, line)
        if _is_spent(seconds):
            answer["last"] = "the next prompt needs another process"
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _compiler() -> Any:
    """What makes a template of its text, once for each text."""
    from jinja2 import nodes, pass_eval_context
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace as AnyNamespace

    class Generation(Extension):
        """``{% generation %}``: transformers marks the model's own text with it; the text is the same."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

        @pass_eval_context
        def _said(self, _context: Any, caller: Any) -> Any:
            return caller()

    class Dict:
        """``dict`` of a template, without the attributes of Python's."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any, **kwargs: Any) -> Any:
            return dict.fromkeys(*args, **kwargs)

    class Namespace(AnyNamespace):
        """``namespace`` of a template, without names that Python keeps for itself."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *rest = args  # so that a name may be "self"
            for name in (found := dict(*rest, **kwargs)):
                Namespace._check(name)
            AnyNamespace.__init__(self, found)

        def __setitem__(self, name: str, value: Any) -> None:
            Namespace._check(name)
            AnyNamespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise SecurityError(f"a namespace cannot store {name!r}, which begins with an underscore")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        # jinja2's own escapes HTML
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format: str) -> str:
        return datetime.now().strftime(format)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": Dict(),
        "namespace": Namespace,
    }
    return functools.lru_cache(maxsize=4)(environment.from_string)


_REASONING = ("reasoning_content", "thinking", "reasoning")


def _message(message: Any) -> Any:
    """A message with its reasoning under the names that templates read."""
    if not isinstance(message, dict):
        raise TypeError(f"a message is an object, and this is not: {message!r:.60}")
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _render(compiled: Any, conversations: Any, chat_template: str, tools: Any = None, **variables: Any) -> str:
    for tool in tools or ():
        if not isinstance(tool, dict):
            raise TypeError(f"a tool is a JSON schema, and this is not: {tool!r:.60}")
    messages = [_message(message) for message in conversations[0]]
    given = {"documents": None, "add_generation_prompt": False, **variables}
    rendered: str = compiled(chat_template).render(messages=messages, tools=tools, **given)
    return rendered


def _answer(compiled: Any, line: bytes) -> dict[str, str]:
    try:
        request = json.loads(line)
        text = _render(compiled, **request["arguments"])
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
