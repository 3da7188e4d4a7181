"""Tool calls as a grammar, in the form that the artifact's chat template writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exaone_export.errors import GrammarError

from ..text.call_form import CallForm, JsonCalls
from ..text.tool_calls import CALL
from . import lark
from .function_calls import ParameterRules, any_text

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
        form: How calls are written, as `exaone_export.runtime.text.chat.ChatFormat.call_form` gives it.

    Raises:
        GrammarError: The parameters of a tool are not those of an object, or the form cannot hold them.
    """

    def __init__(self, tools: Sequence[CalledTool], *, parallel: bool, form: CallForm) -> None:
        self._parallel, self._between = parallel, lark.text(form.between) if form.between else ""
        bodies, rules = list[str](), list[str]()
        for index, tool in enumerate(tools):
            arguments, schema = f"arguments_{index}", _object(tool)
            named = f"the tool {tool.name!r:.80}"
            if isinstance(form, JsonCalls):
                head = json.dumps(tool.name, ensure_ascii=False) + form.before_arguments
                name = f"the parameters of {named}"
                rules.append(f"{arguments}: {lark.json_schema(schema, name=name, lenient=not tool.strict)}")
            else:
                head = tool.name + form.after_name
                found = ParameterRules(form, schema, prefix=arguments, tool=named, lenient=not tool.strict)
                rules += found.rules
            bodies.append(f"{lark.text(form.before_name.removeprefix(CALL) + head)} {arguments}")
        self.rules = [
            f"call: {lark.text(CALL)} call_rest",
            f"call_rest: ({' | '.join(bodies)}) {lark.text(form.end)}",
            *rules,
            *([] if isinstance(form, JsonCalls) else [any_text(form)]),
            rf"text_and_tag[lazy]: /(?s:.*){CALL}/",
            r"text: /(?s:.*)/",
        ]

    @property
    def calls_alone(self) -> str:
        """Calls, at least one, and no text."""
        return f"call ({self._between} call)*" if self._parallel else "call"

    @property
    def calls_in_text(self) -> str:
        """Text, in which there may be calls."""
        return "(text_and_tag call_rest)* text" if self._parallel else "text | text_and_tag call_rest"


def _object(tool: CalledTool) -> dict[str, Any]:
    """The schema of a tool's arguments.

    Raises:
        GrammarError: It is not that of an object.
    """
    found = _NO_PARAMETERS if tool.parameters is None else tool.parameters
    kind = found.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise GrammarError(
            f"the parameters of the tool {tool.name!r:.80} have the type {kind!r:.40}, and arguments are an object; "
            f"write type: object."
        )
    return {**found, "type": "object"}
