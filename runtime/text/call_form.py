"""How a chat template writes tool calls: read from a prompt in which a call was made.

A grammar that forces a call writes it as the model has learned it, with the template's own line breaks and keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from exaone_export.errors import ChatTemplateError

from ..limited_process import ProcessEndedError
from .tool_calls import CALL, END_CALL, PARAMETER, ToolCall, read_calls

__all__ = ["JSON_CALLS", "CallForm", "FunctionCalls", "JsonCalls", "read_call_form"]


@dataclass(frozen=True)
class JsonCalls:
    """A call as one JSON object.

    Attributes:
        before_name: From ``<tool_call>`` to the name's quotation mark.
        before_arguments: From behind the name's quotation mark to the arguments, an object.
        end: From behind the arguments to ``</tool_call>``.
        between: Two calls.
    """

    before_name: str
    before_arguments: str
    end: str
    between: str


@dataclass(frozen=True)
class FunctionCalls:
    """A call as a function and its parameters, each between tags of its own.

    Attributes:
        before_name: From ``<tool_call>`` to the name.
        after_name: Behind the name.
        after_key: Behind a parameter's name, in front of which ``<parameter=`` stands.
        after_value: Behind a parameter's value, which ends it.
        end: From behind the last parameter to ``</tool_call>``.
        between: Two calls.
    """

    before_name: str
    after_name: str
    after_key: str
    after_value: str
    end: str
    between: str


CallForm = JsonCalls | FunctionCalls

JSON_CALLS = JsonCalls(f'{CALL}{{"name": ', ', "arguments": ', f"}}{END_CALL}", "\n")
"""EXAONE 4's, and those of a template that writes no calls."""

_CALLS = (ToolCall("name_a", {"key_a": "value_a", "key_b": "value_b"}), ToolCall("name_b", {"key_a": "value_a"}))


def read_call_form(render: Callable[..., str]) -> CallForm:
    """The form in which a chat template writes calls; `JSON_CALLS` where it writes none that can be read.

    Args:
        render: `ChatFormat.render`.

    Raises:
        ChatTemplateError: The process that the template ran in ended, which says nothing of its form.
        ProcessStartError: The process did not start.
    """
    made = [{"name": call.name, "arguments": dict(call.arguments)} for call in _CALLS]
    calls = [{"type": "function", "function": function} for function in made]
    schemas = [{"name": call.name, "description": "", "parameters": {"type": "object"}} for call in _CALLS]
    tools = [{"type": "function", "function": schema} for schema in schemas]
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    try:
        form = _form_of(render(messages, tools=tools, add_generation_prompt=False))
    except ChatTemplateError as error:
        if isinstance(error.__cause__, ProcessEndedError):
            raise
        return JSON_CALLS
    return form if form is not None and _is_read(form) else JSON_CALLS


def _form_of(said: str) -> CallForm | None:
    """The form of the calls in a text; None where it has none, or they are written otherwise."""
    start = said.rfind(CALL, 0, max(said.find("value_b"), 0))  # the value stands in the call alone
    read = read_calls(said, start + len(CALL)) if start >= 0 else None
    if read is None or read[0] != _CALLS[:1]:
        return None
    call, rest = said[start : read[1]], said[read[1] :]
    between, found, _ = rest.partition(CALL)
    if not found or between.strip():
        between = "\n"
    before_name, _, rest = call.partition(_CALLS[0].name)
    if before_name.endswith('"'):
        try:  # a template may write the arguments before the name, or as a text
            begin = rest.index("{")
            end = json.JSONDecoder().raw_decode(rest, begin)[1]
        except ValueError:
            return None
        return JsonCalls(before_name[:-1], rest[1:begin], rest[end:], between)
    head, _, rest = rest.partition("key_a")
    after_key, _, rest = rest.partition("value_a")
    inner, _, rest = rest.partition("key_b")
    last = rest.partition("value_b")[2]
    after_name, after_value = head.removesuffix(PARAMETER), inner.removesuffix(PARAMETER)
    return FunctionCalls(before_name, after_name, after_key, after_value, last.removeprefix(after_value), between)


def _is_read(form: CallForm) -> bool:
    """Whether calls that a form writes are read again; of some templates the parts cannot be told apart."""
    if isinstance(form, JsonCalls):
        written = form.before_name + '"f"' + form.before_arguments + '{"a": [1]}' + form.end
    else:
        parameter = PARAMETER + "a" + form.after_key + "[1]" + form.after_value
        written = form.before_name + "f" + form.after_name + parameter + form.end
    return read_calls(written, len(CALL)) == ((ToolCall("f", {"a": [1]}),), len(written))
