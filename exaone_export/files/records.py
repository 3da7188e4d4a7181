"""Records out of JSON: a type says what each value may be, and one function reads what `strict_json` parsed.

A `Record` says all: names of keys, types, bounds (`msgspec.Meta`) and, in ``__post_init__``, what holds between values.
msgspec converts nothing on the way: a bool is not an integer, and a text is not a number.

A text with a pattern must not share a union with a list or a mapping: msgspec 0.22 gives the pattern's memory back each
time that such a type is used outside a record, and fails the second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec

from ..errors import ExaoneExportError

__all__ = ["Count", "Record", "Sha256", "Size", "one_of", "read_record"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Size = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9a-f]{64})\Z")]

_T = TypeVar("_T")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An immutable record of which every key is known."""


def one_of(names: Iterable[str]) -> msgspec.Meta:
    """What a text must be that is one of ``names``, which consist of letters, digits, hyphens and underscores."""
    return msgspec.Meta(pattern=rf"\A(?:{'|'.join(names)})\Z")


def read_record(value: Any, kind: type[_T], *, name: str, fix: str, error: type[ExaoneExportError]) -> _T:
    """Make a record of a parsed JSON value.

    Args:
        value: As `strict_json` gives it.
        kind: What it must be; integers as keys of a mapping are written as texts, as JSON has it.
        name: What the value is called in messages.
        fix: How it is put right, the end of a sentence.
        error: What is raised.

    Raises:
        ExaoneExportError: Of the type ``error``: a key is missing or unknown, or a value is not what its type allows.
    """
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except ValueError as cause:  # msgspec's own, and that of half a surrogate pair, which JSON can write
        raise error(f"{name} {_describe(str(cause), value)}; {fix}.") from cause


def _describe(text: str, value: Any) -> str:
    """What msgspec found wrong, with the value: it says what is allowed, and where."""
    problem, is_key, place = re.fullmatch(r"(.*?)(?: - at (`key` in )?`\$\.?(.*)`)?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    place = place or ""
    if found := re.fullmatch(r"Object (missing|contains).* field `(.*)`", problem, re.DOTALL):
        key = f"{place}.{found[2]}".removeprefix(".")
        return f"has {'no' if found[1] == 'missing' else 'an unknown'} key {key[:80]!r}"
    expected = re.fullmatch(r"Expected (.*?)(?:, got (.*))?", problem)
    if expected is None:
        return f"cannot be used: {place}{': ' if place else ''}{problem[:200]}"
    allowed = re.sub(r"str matching regex '\\\\A\(\?:(.*)\)\\\\Z'", r"of the form \1", expected[1].replace("`", ""))
    if is_key:
        return f"has a key in {place} that is not {allowed}"
    shown = _find(value, place)
    shown = f"{expected[2] or 'a value'}".replace("`", "") if shown is _ANY else f"{shown!r:.60}"
    return f"has {shown} at {place}, which is not {allowed}" if place else f"is {shown}, not {allowed}"


_ANY = object()


def _find(value: Any, place: str) -> Any:
    """The value at ``layers[0].size``; `_ANY` where the place is in any of several entries of a mapping."""
    for step in re.findall(r"\w+|\.\.\.", place):
        if step == "...":
            if len(value) != 1:
                return _ANY
            step = next(iter(value))
        value = value[int(step) if isinstance(value, list | tuple) else step]
    return value
