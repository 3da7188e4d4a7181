"""The forms of an answer, in llguidance's dialect of Lark."""

from __future__ import annotations

import json
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
        GrammarError: The schema is not JSON, or nested too deeply.
    """
    _check(schema, name)
    try:
        return "%json " + json.dumps({**schema, "x-guidance": {**_JSON, "lenient": lenient}}, allow_nan=False)
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


def _check(schema: Any, name: str) -> None:
    """Refuse what llguidance has no limit for: its stack, and the states of a division."""
    level = [schema]
    for _ in range(_MAX_DEPTH):
        for each in level:
            divisor = each.get("multipleOf") if isinstance(each, Mapping) else None
            if isinstance(divisor, int | float) and divisor > _MAX_DIVISOR:
                raise GrammarError(f"{name} has multipleOf {divisor!r:.40}, and the largest is {_MAX_DIVISOR}.")
        inner = [each.values() if isinstance(each, Mapping) else each for each in level]
        level = [item for each in inner for item in each if isinstance(item, Mapping | list | tuple)]
        if not level:
            return
    raise GrammarError(f"{name} is nested more than {_MAX_DEPTH} levels deep; write it flatter, with $defs and $ref.")
