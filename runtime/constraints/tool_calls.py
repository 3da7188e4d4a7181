"""Tool calls as a grammar: ``<tool_call>{"name": …, "arguments": …}</tool_call>``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exaone_export.errors import GrammarError

from ..text.tool_calls import CALL, END_CALL
from . import lark

__all__ = ["CallGrammar", "CalledTool"]

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class CalledTool:
    """A tool that may be called.

    Attributes:
        name: Of the function.
        parameters: JSON Schema of its arguments, an object; None for a function without.
        strict: Whether a schema with a keyword that is not supported is refused, which is else ignored.
    """

    name: str
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


class CallGrammar:
    """The rules of calls of some tools, and the forms of answers that have calls.

    Args:
        tools: Those that may be called, at least one.
        parallel: Whether an answer may have several calls.

    Raises:
        GrammarError: The parameters of a tool are not those of an object.
    """

    def __init__(self, tools: Sequence[CalledTool], *, parallel: bool) -> None:
        self._parallel = parallel
        heads = [lark.text(f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": ') for tool in tools]
        bodies = " | ".join(f"{head} arguments_{index}" for index, head in enumerate(heads))
        self.rules = [
            f"call: {lark.text(CALL)} call_rest",
            f"call_rest: ({bodies}) {lark.text('}' + END_CALL)}",
            *(f"arguments_{index}: {_arguments(tool)}" for index, tool in enumerate(tools)),
            rf"text_and_tag[lazy]: /(?s:.*){CALL}/",
            r"text: /(?s:.*)/",
        ]

    @property
    def calls_alone(self) -> str:
        """Calls, at least one, and no text."""
        return r'call ("\n" call)*' if self._parallel else "call"

    @property
    def calls_in_text(self) -> str:
        """Text, in which there may be calls."""
        return "(text_and_tag call_rest)* text" if self._parallel else "text | text_and_tag call_rest"


def _arguments(tool: CalledTool) -> str:
    name = f"the parameters of the tool {tool.name!r:.80}"
    found = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    kind = found.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise GrammarError(f"{name} have the type {kind!r:.40}, and arguments are an object; write type: object.")
    return lark.json_schema({**found, "type": "object"}, name=name, lenient=not tool.strict)
