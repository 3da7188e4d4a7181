"""Tool calls in a model's text: ``<tool_call>{"name": …, "arguments": …}</tool_call>``.

Later models of the family write ``<function=name><parameter=key>value</parameter></function>`` between the same tags.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CALL",
    "END_CALL",
    "END_PARAMETER",
    "PARAMETER",
    "Kinds",
    "ToolCall",
    "parameter_kinds",
    "read_calls",
    "referred",
]

CALL, END_CALL = "<tool_call>", "</tool_call>"

# EXAONE 4's template takes a call with either key; a model may have been trained on both.
_ARGUMENTS = ("arguments", "parameters")
_LABELS = {"id", "index", "type"}  # of a call; they say nothing about what is called
_MAX_DEPTH = 64

# The later form.
_FUNCTION, _END_FUNCTION, PARAMETER, END_PARAMETER = "<function=", "</function>", "<parameter=", "</parameter>"
_HEAD = re.compile(r"<(?:function|parameter)=([^<>\s]{1,256})>")
_LONGEST_LITERAL = 16  # More than of any JSON value that a cut can make wrong, but strings and numbers.


Kinds = Mapping[str, Mapping[str, Collection[str]]]
"""By the name of a tool, of its parameters the kinds of values, as ``type`` names them; those that are known."""

_NO_KINDS: Kinds = {}


@dataclass(frozen=True)
class ToolCall:
    """A tool call of the model.

    Attributes:
        name: Of the tool.
        arguments: By name.
    """

    name: str
    arguments: Mapping[str, Any]


def parameter_kinds(tools: Iterable[Any]) -> Kinds:
    """The kinds of values that the parameters of tools may have, by the tool's name.

    Args:
        tools: JSON schemas as a chat template takes them; of others nothing is known.
    """
    found = dict[str, Mapping[str, Collection[str]]]()
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
        schema = function.get("parameters") if isinstance(function, Mapping) else None
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(properties, Mapping) and isinstance(name := function.get("name"), str):
            found[name] = {key: kinds for key, value in properties.items() if (kinds := _kinds(value, schema))}
    return found


def referred(schema: Any, reference: str) -> Any:
    """What a ``$ref`` of a schema refers to, inside the schema; None where it is not there."""
    for part in reference.removeprefix("#/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        schema = schema.get(key) if isinstance(schema, Mapping) else None
    return schema


def _kinds(schema: Any, root: Any) -> set[str]:
    """The kinds of values, as ``type`` names them, that a schema inside ``root`` allows; none where that is unknown."""
    found, seen, left = set[str](), set[int](), [schema]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if not isinstance(each, Mapping):
            return set()
        kinds, branches = each.get("type"), each.get("anyOf", each.get("oneOf", each.get("allOf")))
        values = each.get("enum", [each["const"]] if "const" in each else None)
        if "$ref" in each:
            left.append(referred(root, str(each["$ref"])))
        elif isinstance(values, list):
            found.update(*map(_kinds_of, values))
        elif isinstance(kinds, str | list):
            found.update([kinds] if isinstance(kinds, str) else map(str, kinds))
        elif isinstance(branches, list) and branches and ("allOf" not in each or len(branches) == 1):
            left += branches
        else:
            return set()
    return found


def _kinds_of(value: Any) -> set[str]:
    """The names that ``type`` has for a value."""
    if isinstance(value, bool | None):
        return {"null" if value is None else "boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value % 1 == 0 else {"number"}
    return {"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"}


def read_calls(text: str, start: int, kinds: Kinds = _NO_KINDS) -> tuple[tuple[ToolCall, ...], int] | None:
    """Read the call, or the list of calls, behind an opening tag, in either form.

    The decoder finds the end of the JSON by itself, because an argument may hold the closing tag.

    Args:
        text: May go on.
        start: Where the tag ends.
        kinds: As `parameter_kinds` gives them.

    Returns:
        The calls and where the text continues: no calls, whatever follows, where the tag is only text. None if that
        depends on what follows.
    """
    nothing = (), start
    begin = _skip_space(text, start)
    if text.startswith(_FUNCTION, begin):
        return _read_function(text, begin, start, kinds)
    if _FUNCTION.startswith(text[begin:]):
        return None
    try:
        value, end = _DECODER.raw_decode(text, begin)
        calls = tuple(_to_call(call) for call in (value if isinstance(value, list) else [value]))
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated string") or error.pos + _LONGEST_LITERAL > len(text)
        return None if cut else nothing
    except (ValueError, RecursionError):
        return None if text[-1:] in "0123456789+-.eE" else nothing  # a number that is too large may become smaller
    end = _skip_space(text, end)
    if not calls:
        return nothing
    if text.startswith(END_CALL, end):
        return calls, end + len(END_CALL)
    return None if END_CALL.startswith(text[end:]) else nothing


def _read_function(text: str, begin: int, start: int, kinds: Kinds) -> tuple[tuple[ToolCall, ...], int] | None:
    """Read a call in the later form, which begins at ``begin``; as `read_calls`."""
    nothing, arguments = ((), start), dict[str, Any]()
    head = _HEAD.match(text, begin)
    if head is None:
        return None if _goes_on(text, begin) else nothing
    at = _skip_space(text, head.end())
    while not text.startswith(_END_FUNCTION, at):
        parameter = _HEAD.match(text, at)
        if parameter is None or not text.startswith(PARAMETER, at):
            return None if _goes_on(text, at) else nothing
        end, at = _end_of_value(text, parameter.end())
        if end < 0:
            return None
        if parameter[1] in arguments:
            return nothing
        value = text[parameter.end() : end].removeprefix("\n").removesuffix("\n")
        arguments[parameter[1]] = _value(value, kinds.get(head[1], {}).get(parameter[1], ()))
    at = _skip_space(text, at + len(_END_FUNCTION))
    if text.startswith(END_CALL, at):
        return (ToolCall(head[1], arguments),), at + len(END_CALL)
    return None if END_CALL.startswith(text[at:]) else nothing


def _goes_on(text: str, at: int) -> bool:
    """Whether what begins at a place may still become a tag of the later form."""
    rest = text[at:]
    if any(tag.startswith(rest) for tag in (_FUNCTION, PARAMETER, _END_FUNCTION)):
        return True
    return rest.startswith((_FUNCTION, PARAMETER)) and len(rest) <= 256 and not re.search(r"[>\s]", rest)


def _end_of_value(text: str, start: int) -> tuple[int, int]:
    """Where a parameter's value ends, and where the next tag begins; -1 where that depends on what follows.

    A value may hold the closing tag: it ends at one that another parameter, or the end of the function, stands behind.
    """
    end = text.find(END_PARAMETER, start)
    while end >= 0:
        after = _skip_space(text, end + len(END_PARAMETER))
        if text.startswith((PARAMETER, _END_FUNCTION), after):
            return end, after
        if any(tag.startswith(text[after:]) for tag in (PARAMETER, _END_FUNCTION)):
            return -1, after
        end = text.find(END_PARAMETER, end + 1)
    return -1, start


def _value(text: str, kinds: Collection[str]) -> Any:
    """The value of a parameter of some kinds, or of any: JSON but for texts, which stand there as they are."""
    try:
        value = _DECODER.decode(text)
        for _ in _texts(value):
            pass
    except (ValueError, RecursionError):
        return text
    is_text = isinstance(value, str) or ("string" in kinds and not _kinds_of(value) & set(kinds))
    return text if is_text else value


class _NotACallError(ValueError):
    """JSON behind an opening tag that is not a call as it is understood."""


def _to_call(value: Any) -> ToolCall:
    """A call as JSON, flat or with its parts under ``function``.

    Raises:
        ValueError: It is not a call, or something of it would be lost.
    """
    if isinstance(value, dict) and isinstance(value.get("function"), dict) and value.keys() <= {"function", *_LABELS}:
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _NotACallError
    given = [key for key in _ARGUMENTS if key in value]
    if len(given) > 1 or not value.keys() <= {"name", *given, *_LABELS}:
        raise _NotACallError  # which of the keys are the arguments is not known
    arguments = value[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments = _DECODER.decode(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise _NotACallError  # arguments have names
    for text in _texts([value["name"], arguments]):
        text.encode()  # half of a surrogate pair, which JSON can write, could not be printed
    return ToolCall(value["name"], arguments)


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Every text in a JSON value."""
    if depth > _MAX_DEPTH:
        raise _NotACallError  # it could not be written again
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        yield from value if isinstance(value, dict) else ()
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, depth + 1)


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _reject(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is beyond every float")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_reject, parse_float=_finite)
