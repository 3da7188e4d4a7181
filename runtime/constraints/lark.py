"""The forms of an answer, in llguidance's dialect of Lark."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from exaone_export.errors import GrammarError

from ..text.reasoning import Reasoning

__all__ = ["choice", "grammar_of", "json_schema", "regex", "regex_of", "text"]

_JSON = {
    "whitespace_pattern": r"( |\n[ \t]{0,64})?",  # of any space, a model may write without end
    "json_allowed_escapes": 'nrbtf\\"',  # \u could write half of a surrogate pair; characters are written as they are
}
_MAX_DEPTH, _MAX_DIVISOR = 64, 1000
_LARGEST = 2**53
"""Of numbers that a schema may allow alone: whole numbers up to it are what every reader of JSON keeps (RFC 8259)."""
_WIDEST = 2**63
"""Of numbers' bounds: llguidance reads a bound as a float, and counts in 64 bits."""
_LONGEST = 10**9
"""Of counts; every answer is shorter."""

_DATA = frozenset(("const", "enum", "default", "examples"))
_OF_NAMES = frozenset(("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"))
_UPPER, _LOWER = ("maximum", "exclusiveMaximum"), ("minimum", "exclusiveMinimum")
_MOST, _LEAST = ("maxLength", "maxItems", "maxProperties"), ("minLength", "minItems", "minProperties")


def text(value: str) -> str:
    """A literal."""
    return json.dumps(value)


def regex_of(value: str) -> str:
    """A literal as what stands between the slashes of a regular expression."""
    return re.escape(value).replace("/", r"\/").replace("\\\n", r"\n")


def json_schema(schema: Mapping[str, Any], *, name: str, lenient: bool = False) -> str:
    """JSON that a schema accepts, as what stands to the right of a rule's name.

    Args:
        schema: JSON Schema, draft 2020-12.
        name: Of the schema, for errors.
        lenient: Whether keywords that are not supported are ignored.

    Raises:
        GrammarError: The schema is not JSON, nested too deeply, or has a number that is too large.
    """
    _check_depth(schema, name)
    try:
        return "%json " + json.dumps(
            {**_bounded(schema, name), "x-guidance": {**_JSON, "lenient": lenient}}, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise GrammarError(f"{name} is not JSON ({error}); write it as JSON Schema.") from error


def regex(pattern: str, *, name: str) -> str:
    """A rule `content`: text that a regular expression matches from its beginning to its end.

    Args:
        pattern: In the syntax of Rust's regex crate: no look-around and no back-references.
        name: Of the pattern, for errors.

    Raises:
        GrammarError: It is empty.
    """
    import llguidance

    if not pattern:
        raise GrammarError(f"{name} is empty, and an answer has text; write a regular expression.")
    return f"content: /{llguidance.regex_to_lark(pattern, '')}/"


def choice(options: Sequence[str], *, name: str) -> str:
    """A rule `content`: one of some texts.

    Raises:
        GrammarError: There is none.
    """
    if not options:
        raise GrammarError(f"{name} is empty; name at least one text to choose.")
    return f"content: CHOICE\nCHOICE: {' | '.join(map(text, options))}"  # a terminal, whatever their number


def grammar_of(form: str, rules: Sequence[str] = (), *, reasoning: Reasoning | None) -> str:
    """A grammar.

    Args:
        form: Of the answer.
        rules: That the form names.
        reasoning: The tags that the answer begins inside of, if any; the form is that of what follows them.
    """
    if reasoning is None:
        return "\n".join([f"start: {form}", *rules])
    thought = f"reasoning[lazy]: /(?s:.*){regex_of(reasoning.end)}/"
    return "\n".join([r"start: reasoning /\n{0,2}/ answer", thought, f"answer: {form}", *rules])


def _check_depth(schema: Any, name: str) -> None:
    """Refuse what llguidance's stack has no limit for."""
    level = [schema]
    for _ in range(_MAX_DEPTH):
        inner = [each.values() if isinstance(each, Mapping) else each for each in level]
        level = [item for each in inner for item in each if isinstance(item, Mapping | list | tuple)]
        if not level:
            return
    raise GrammarError(f"{name} is nested more than {_MAX_DEPTH} levels deep; write it flatter, with $defs and $ref.")


def _bounded(schema: Any, name: str, *, of_names: bool = False) -> Any:
    """A schema with bounds that llguidance can keep to: what fulfils them fulfils the given ones up to 2**63.

    Args:
        schema: Or a part of it.
        name: Of the schema, for errors.
        of_names: Whether it is an object of names, such as `properties`.

    Raises:
        GrammarError: A bound allows only numbers, or lengths, that are too large.
    """
    if isinstance(schema, list | tuple):
        return [_bounded(each, name) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = dict[str, Any]()
    for key, value in schema.items():
        if of_names or not isinstance(key, str):
            found[key] = _bounded(value, name)
        elif key in _DATA:
            found[key] = value
        elif isinstance(value, bool) or not isinstance(value, int | float):
            found[key] = _bounded(value, name, of_names=key in _OF_NAMES)
        elif (bound := _bound(key, value, name)) is not None:
            found[key] = bound
    return found


def _bound(key: str, value: float, name: str) -> float | None:
    """A keyword's number, or one that is stricter; None where it is not kept to."""
    if key == "multipleOf" and not 0 < value <= _MAX_DIVISOR:
        raise GrammarError(f"{name} has multipleOf {value!r:.40}, and it may be above 0, up to {_MAX_DIVISOR}.")
    is_upper, is_lower = key in _UPPER, key in _LOWER
    if (is_lower and value > _LARGEST) or (is_upper and value < -_LARGEST):
        raise GrammarError(
            f"{name} has {key} {value!r:.40}, and numbers beyond 2**53 ({_LARGEST}) alone are not supported; write it "
            f"as a string with a pattern."
        )
    if key in _LEAST and value > _LONGEST:
        raise GrammarError(f"{name} has {key} {value!r:.40}, and answers are shorter; correct it.")
    if key in _MOST and value > _LONGEST:
        return None
    return _inner(value) if (is_upper or is_lower) and abs(value) > _LARGEST else value


def _inner(bound: float) -> int | None:
    """The float next to a bound on zero's side; None of a wider one, which must not forbid numbers that it allows."""
    if abs(bound) > _WIDEST:
        return None
    found = float(bound)
    return int(math.nextafter(found, 0) if abs(found) > min(abs(bound), _WIDEST - 1) else found)
