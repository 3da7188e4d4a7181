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
from ..text.tool_calls import PARAMETER
from . import lark

__all__ = ["ParameterRules", "any_text"]

_NAME = re.compile(r"[^<>\s]{1,256}")
_NOTES = {"type", "title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"}
_OF_TEXTS = {"pattern", "minLength", "maxLength"}
_MAX_DEPTH = 64
_ANY_TEXT = "any_text"


def any_text(form: FunctionCalls) -> str:
    """The rule of a text that may be anything, which all tools share: it ends where a value does."""
    return f"{_ANY_TEXT}[lazy]: /(?s:.*){lark.regex_of(form.after_value)}/"


class ParameterRules:
    """The rules of one tool's parameters, which come in the schema's order.

    Args:
        form: The chat template's.
        schema: JSON Schema of the arguments, an object.
        prefix: What the names of the rules begin with; the first rule has it alone.
        name: Of the schema, for errors.
        lenient: Whether keywords that are not supported are ignored.

    Attributes:
        rules: As given.

    Raises:
        GrammarError: A parameter's name cannot be written between tags, or its schema is wrong or not supported.
    """

    def __init__(
        self, form: FunctionCalls, schema: Mapping[str, Any], *, prefix: str, name: str, lenient: bool
    ) -> None:
        self._form, self._schema, self._prefix, self._lenient = form, schema, prefix, lenient
        self.rules = list[str]()
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise GrammarError(f"{name} have no list of parameters; write properties as an object, required as a list.")
        if not (lenient or properties or required or schema.keys() <= {"type", "properties", "additionalProperties"}):
            raise GrammarError(
                f"{name} have no properties, and the model writes calls parameter by parameter; list them."
            )
        each = list[str]()
        for key in dict.fromkeys([*properties, *map(str, required)]):
            if not _NAME.fullmatch(key):
                raise GrammarError(
                    f"{name} have one with the name {key!r:.80}, which the model's calls cannot hold; use letters, "
                    f"digits and underscores."
                )
            value = " | ".join(self._value(properties.get(key, True), f"{name}, {key!r:.80},"))
            rule = self._add(f"{lark.text(PARAMETER + key + form.after_key)} ({value})")
            each.append(rule if key in required else f"{rule}?")
        self.rules.insert(0, f"{prefix}: {' '.join(each) or lark.text('')}")

    def _add(self, body: str) -> str:
        """Add a rule, and give its name."""
        name = f"{self._prefix}_{len(self.rules)}"
        self.rules.append(f"{name}: {body}")
        return name

    def _value(self, schema: Any, name: str, depth: int = 0) -> Iterator[str]:
        """The forms of a value, with what ends it."""
        if depth > _MAX_DEPTH:
            raise GrammarError(f"{name} refers to itself; write it without $ref.")
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping):
            raise GrammarError(f"{name} is {schema!r:.40}, and a schema is an object; correct it.")
        branches = schema.get("anyOf", schema.get("oneOf"))
        kinds = schema.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        if "$ref" in schema:
            yield from self._value(self._referred(str(schema["$ref"]), name), name, depth + 1)
        elif "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            for value in values if isinstance(values, list) else [values]:
                said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                yield lark.text(said + self._form.after_value)
        elif isinstance(branches, list) and not kinds:
            for branch in branches:
                yield from self._value(branch, name, depth + 1)
        elif not kinds and not schema.keys() - _NOTES:
            yield _ANY_TEXT
        else:
            if "string" in kinds:
                yield self._text(schema, name)
            left = {"type": [kind for kind in kinds if kind != "string"]} if kinds else {}
            if left != {"type": []}:
                shared = {key: self._schema[key] for key in ("$defs", "definitions") if key in self._schema}
                rule = self._add(lark.json_schema({**shared, **schema, **left}, name=name, lenient=self._lenient))
                yield f"{rule} {lark.text(self._form.after_value)}"

    def _text(self, schema: Mapping[str, Any], name: str) -> str:
        unknown = schema.keys() - _NOTES - _OF_TEXTS
        if unknown and not self._lenient:
            raise GrammarError(f"{name} has {min(unknown)!r:.40}, which is not supported for a text; leave it out.")
        if "pattern" in schema:
            pattern = str(schema["pattern"]).removeprefix("^").removesuffix("$")
            rule = self._add(lark.regex(pattern, name=name).removeprefix("content: "))
            return f"{rule} {lark.text(self._form.after_value)}"
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        if least or most != "":
            return f"/[^<]{{{least},{most}}}/ {lark.text(self._form.after_value)}"
        return _ANY_TEXT

    def _referred(self, reference: str, name: str) -> Any:
        found: Any = self._schema
        for part in reference.removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is None:
            raise GrammarError(f"{name} refers to {reference!r:.80}, which is not there; write it under $defs.")
        return found
