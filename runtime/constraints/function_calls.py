"""Parameters of tool calls as a grammar, where the chat template writes each between tags of its own.

A value is JSON but for a text, which stands there as it is: `exaone_export.runtime.text.tool_calls` reads it so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from exaone_export.errors import GrammarError

from ..text.call_form import FunctionCalls
from ..text.tool_calls import END_PARAMETER, PARAMETER, referred
from . import lark

__all__ = ["ParameterRules", "any_text"]

_NAME = re.compile(r"[^<>\s]{1,256}")
_NOTES = {"type", "title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"}
_OF_TEXTS = {"pattern", "minLength", "maxLength"}
_KINDS = ("object", "array", "number", "boolean", "null")  # of JSON but for texts
_MAX_DEPTH, _MAX_FORMS = 64, 10_000
_COUNTED = 2_000
"""Characters of a text that are counted unless a tool is strict: each takes states of the lexer, which has 20,000."""
_LONGEST = 1_000_000  # no answer has more characters

_ANY = "(?s:.*)"
_PARTS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
"""Of a regular expression: an escape, a set or a character."""
_ANY_TEXT = "any_text"


def _without(tag: str) -> str:
    """A regular expression of the texts that do not hold a tag, which begins with its only ``<``.

    The same by ``~`` takes too many states: llguidance then looks for an end of texts that have the tag already.
    """
    *inner, last = map(lark.regex_of, tag[1:])
    other, begun = f"[^<{last}]", ""  # from a place in the tag: another character at last; what it may be cut off to
    for each in reversed(inner):
        other, begun = f"(?:[^<{each}]|{each}{other})", f"(?:{each}{begun})?"
    return f"(?:[^<]|(?:<{begun})*<{other})*(?:<{begun})*"


_UNTAGGED = _without(END_PARAMETER)


def any_text(form: FunctionCalls) -> str:
    """The rule of a text that may be anything, which all tools share: it ends where a value does."""
    return f"{_ANY_TEXT}[lazy]: /(?s:.*){lark.regex_of(form.after_value)}/"


class ParameterRules:
    """The rules of one tool's parameters, which come in the schema's order.

    Args:
        form: The chat template's.
        schema: JSON Schema of the arguments, an object.
        prefix: What the names of the rules begin with; the first rule has it alone.
        tool: The tool, for errors.
        lenient: Whether keywords that are not supported are ignored.

    Attributes:
        rules: As given.

    Raises:
        GrammarError: A parameter's name cannot be written between tags, or its schema is wrong or not supported.
    """

    def __init__(
        self, form: FunctionCalls, schema: Mapping[str, Any], *, prefix: str, tool: str, lenient: bool
    ) -> None:
        self._form, self._schema, self._prefix, self._lenient = form, schema, prefix, lenient
        self._visited = 0
        self.rules = list[str]()
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise GrammarError(f"the parameters of {tool}: properties must be an object and required a list.")
        if not (lenient or properties or required or schema.keys() <= {"type", "properties", "additionalProperties"}):
            raise GrammarError(
                f"{tool} has no properties, and the model writes calls parameter by parameter; list them."
            )
        each = list[str]()
        for key in dict.fromkeys([*properties, *map(str, required)]):
            if not _NAME.fullmatch(key):
                raise GrammarError(
                    f"{tool} has a parameter named {key!r:.80}, which cannot be written in this model's calls; use "
                    f"letters, digits and underscores."
                )
            value = " | ".join(self._value(properties.get(key, True), f"the parameter {key!r:.80} of {tool}"))
            rule = self._add(f"{lark.text(PARAMETER + key + form.after_key)} ({value})")
            each.append(rule if key in required else f"{rule}?")
        self.rules.insert(0, f"{prefix}: {' '.join(each) or lark.text('')}")

    def _add(self, body: str, *, is_terminal: bool = False, options: str = "") -> str:
        """Add a rule, and give its name."""
        name = f"{self._prefix}_{len(self.rules)}"
        if is_terminal:
            name = name.upper()
        self.rules.append(f"{name}{options}: {body}")
        return name

    def _value(self, schema: Any, name: str, depth: int = 0) -> Iterator[str]:
        """The forms of a value, with what ends it."""
        self._visited += 1
        if depth > _MAX_DEPTH or self._visited > _MAX_FORMS:
            raise GrammarError(f"{name} refers to itself, or has too many forms; write it without $ref.")
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping):
            raise GrammarError(f"{name} is {schema!r:.40}, and a schema is an object; correct it.")
        branches, parts = schema.get("anyOf", schema.get("oneOf")), schema.get("allOf")
        kinds = schema.get("type", [])
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if "$ref" in schema:
            found = referred(self._schema, reference := str(schema["$ref"]))
            if found is None:
                raise GrammarError(f"{name} refers to {reference!r:.80}, which is not there; write it under $defs.")
            yield from self._value(found, name, depth + 1)
        elif "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            for value in values if isinstance(values, list) else [values]:
                said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                yield lark.text(said + self._form.after_value)
        elif isinstance(branches, list) and not kinds:
            for branch in branches:
                yield from self._value(branch, name, depth + 1)
        elif isinstance(parts, list) and len(parts) == 1 and not kinds:
            yield from self._value(parts[0], name, depth + 1)
        elif not kinds and not schema.keys() - _NOTES - _OF_TEXTS:
            yield self._text(schema, name)  # what is not a text keeps such a schema too
        else:
            if "string" in kinds:
                yield self._text(schema, name)
            left = {"type": [kind for kind in kinds or _KINDS if kind != "string"]}
            if left["type"]:
                shared = {key: self._schema[key] for key in ("$defs", "definitions") if key in self._schema}
                rule = self._add(lark.json_schema({**shared, **schema, **left}, name=name, lenient=self._lenient))
                yield f"{rule} {lark.text(self._form.after_value)}"

    def _text(self, schema: Mapping[str, Any], name: str) -> str:
        import llguidance

        unknown = schema.keys() - _NOTES - _OF_TEXTS
        if unknown and not self._lenient:
            raise GrammarError(f"{name} has {min(unknown)!r:.40}, which is not supported for a string; leave it out.")
        least, most = self._lengths(schema, name)
        length = f"(?s:.{{{least},{'' if most is None else most}}})"
        if "pattern" not in schema and not least:
            if most is None:
                return _ANY_TEXT
            return self._add(f"/{length}{lark.regex_of(self._form.after_value)}/", options="[lazy]")
        forms = [f"/{length}/", f"/{_UNTAGGED}/"]
        if "pattern" in schema:
            if not isinstance(pattern := schema["pattern"], str):
                raise GrammarError(f"{name} has the pattern {pattern!r:.40}, which is not a text; correct it.")
            forms.append(f"/{llguidance.regex_to_lark(_searched(pattern), 'dw')}/")  # \d and \w are ASCII's
        return self._add(f"({' & '.join(forms)}) {lark.text(self._form.after_value)}", is_terminal=True)

    def _lengths(self, schema: Mapping[str, Any], name: str) -> tuple[int, int | None]:
        """The least and the largest length of a text; what cannot be counted is ignored where nothing is strict."""
        least, most = _length(schema, "minLength", name) or 0, _length(schema, "maxLength", name)
        if most is not None and least > most:
            raise GrammarError(
                f"{name} has minLength {least} and maxLength {most}, so that no text fits; correct them."
            )
        if self._lenient and least > _COUNTED:
            least = 0
        return least, None if most is None or most > (_COUNTED if self._lenient else _LONGEST) else most


def _length(schema: Mapping[str, Any], key: str, name: str) -> int | None:
    value = schema.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
        raise GrammarError(f"{name} has {key} {value!r:.40}, and a length is an integer, 0 or more; correct it.")
    return int(value) if key in schema else None


def _searched(pattern: str) -> str:
    """A regular expression of the whole texts in which JSON Schema finds a pattern: anywhere, but for ^ and $."""
    branches, depth = [list[str]()], 0
    for part in _PARTS.findall(pattern):
        depth += (part == "(") - (part == ")")
        if part == "|" and not depth:
            branches.append([])
        else:
            branches[-1].append(part)
    return "|".join(map(_whole, branches))


def _whole(parts: list[str]) -> str:
    begins, ends = parts[:1] == ["^"], parts[-1:] == ["$"]
    inner = "".join(parts[begins : len(parts) - ends])
    return f"{'' if begins else _ANY}(?:{inner}){'' if ends else _ANY}"
