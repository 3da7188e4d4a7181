"""Forced tool calls are written as the chat template writes calls, and are read again as the schema says."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import jsonschema
import pytest

from exaone_export.errors import ChatTemplateError, GrammarError, ProcessStartError
from exaone_export.runtime.constraints.constraint import Compiled, Compiler
from exaone_export.runtime.constraints.requested import constraint_of
from exaone_export.runtime.constraints.tool_calls import CalledTool
from exaone_export.runtime.limited_process import ProcessEndedError
from exaone_export.runtime.text.answer import parse_answer
from exaone_export.runtime.text.call_form import JSON_CALLS, CallForm, FunctionCalls, JsonCalls
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.tokenizer import Tokenizer
from tests.conftest import TINY
from tests.runtime.constraints import random_answers
from tests.runtime.constraints.random_answers import STOP

ROLES = "{%- for m in messages %}{{- '<|' + m.role + '|>\n' + (m.content or '') }}{%- for c in m.tool_calls or [] %}"
END = "{%- endfor %}{{- '<|endofturn|>\n' }}{%- endfor %}"
FUNCTIONS = (
    f"{ROLES}"
    "{{- '<tool_call>\n<function=' + c.function.name + '>\n' }}{%- for key, value in c.function.arguments | items %}"
    "{{- '<parameter=' + key + '>\n' + (value if value is string else value | tojson) + '\n</parameter>\n' }}"
    "{%- endfor %}{{- '</function>\n</tool_call>' }}{{- '' if loop.last else '\n\n' }}"
    f"{END}"
)
HERMES = (
    f"{ROLES}"
    '{{- \'<tool_call>\n{"name": "\' + c.function.name + \'", "parameters": \' }}'
    "{{- (c.function.arguments | tojson) + '}\n</tool_call>\n' }}"
    f"{END}"
)
ARGUMENTS_FIRST = (
    f"{ROLES}"
    "{{- '<tool_call>{\"arguments\": ' + (c.function.arguments | tojson) }}"
    "{{- ', \"name\": \"' + c.function.name + '\"}</tool_call>' }}"
    f"{END}"
)
FUNCTION_FORM = FunctionCalls(
    "<tool_call>\n<function=", ">\n", ">\n", "\n</parameter>\n", "</function>\n</tool_call>", "\n\n"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.open(TINY)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, JSON_CALLS),
        (FUNCTIONS, FUNCTION_FORM),
        (HERMES, JsonCalls('<tool_call>\n{"name": ', ', "parameters": ', "}\n</tool_call>", "\n")),
        # what writes no calls, or calls that would not be read, or refuses them
        ("{{ messages[0].content }}", JSON_CALLS),
        (HERMES.replace('"name', '"x'), JSON_CALLS),
        (HERMES.replace("| tojson)", "| tojson | tojson)"), JSON_CALLS),
        (ARGUMENTS_FIRST, JSON_CALLS),
        ("{{ raise_exception('no tools') if tools else '' }}", JSON_CALLS),
    ],
)
def test_the_form_of_a_template(template: str | None, form: CallForm) -> None:
    found = Tokenizer.open(TINY)
    if template is not None:
        found.chat_template = template
    assert ChatFormat(found).call_form == form


def test_a_form_that_was_not_read_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Tokenizer.open(TINY)
    found.chat_template = FUNCTIONS
    chat = ChatFormat(found)
    ended = ChatTemplateError("the chat template did not end within 10 seconds.")
    ended.__cause__ = ProcessEndedError(None, "")
    with monkeypatch.context() as patch:
        for error in (ended, ProcessStartError("the process did not start.")):
            patch.setattr(chat, "render", Mock(side_effect=error))
            with pytest.raises(type(error)):
                chat.call_form  # noqa: B018 - a property
    assert chat.call_form == FUNCTION_FORM


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Compiler:
    pytest.importorskip("llguidance", reason="needs the extra serve")
    return Compiler(tokenizer, len(tokenizer), {STOP})


@pytest.fixture(scope="module")
def say(tokenizer: Tokenizer) -> Callable[..., str]:
    # A text that may be anything is left by the way that ends it.
    ending = tokenizer.encode("\n</parameter>\n", add_special_tokens=False)
    return functools.partial(random_answers.say, tokenizer, ending=ending, closes='"}]<')


CITY = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["a", "é", 7]},
        "digits": {"type": "string", "pattern": "^[0-9]{3}$"},
        "short": {"type": "string", "minLength": 1, "maxLength": 4},
        "point": {"$ref": "#/$defs/point"},
        "maybe": {"type": ["string", "null"], "pattern": "^[a-c]{2}$"},
        "either": {"anyOf": [{"const": "x"}, {"type": "boolean"}]},
        "named": {"allOf": [{"$ref": "#/$defs/name"}]},
    },
    "required": ["count", "kind", "digits", "point", "named"],
    "additionalProperties": False,
    "$defs": {
        "point": {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "maxItems": 2},
        "name": {"type": "string", "maxLength": 6},
    },
}
TOOLS = [CalledTool("find", CITY, strict=True), CalledTool("now")]
SCHEMAS = [{"type": "function", "function": {"name": "find", "parameters": CITY}}]


@pytest.mark.parametrize("seed", range(8))
def test_a_forced_call_has_the_form_and_keeps_the_schema(
    compiler: Compiler, say: Callable[..., str], seed: int
) -> None:
    options: Any = {"tools": TOOLS[: 1 + seed % 2], "tool_choice": "required", "parallel_tool_calls": False}
    text = say(constraint_of(compiler, call_form=FUNCTION_FORM, **options), seed)
    assert text.startswith("<tool_call>\n<function=") and text.endswith("</function>\n</tool_call>")
    answer = parse_answer(text, tools=SCHEMAS)
    [call] = answer.tool_calls
    assert not answer.content
    if call.name == "find":
        jsonschema.validate(dict(call.arguments), CITY)
        assert list(call.arguments) == [key for key in CITY["properties"] if key in call.arguments]  # type: ignore[attr-defined]
    else:
        assert (call.name, call.arguments) == ("now", {})


def _takes(tokenizer: Tokenizer, made: Compiled | None, text: str) -> bool:
    assert made is not None
    tokens = [*tokenizer.encode(text, add_special_tokens=False), STOP]
    return random_answers.allows(made(), tokens, len(tokenizer))


def test_texts_may_be_anything_and_optional_parameters_may_be_left_out(
    tokenizer: Tokenizer, compiler: Compiler
) -> None:
    schema = {"type": "object", "properties": {"said": {"type": "string"}, "any": {}}, "required": ["said"]}
    made = constraint_of(compiler, tools=[CalledTool("say", schema)], tool_choice="required", call_form=FUNCTION_FORM)
    tools = [{"function": {"name": "say", "parameters": schema}}]

    def call(**arguments: str) -> str:
        inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
        return f"<tool_call>\n<function=say>\n{inner}</function>\n</tool_call>"

    for value in ("", "12", 'two\nlines, "quoted" </parameter> x', "null"):
        for text in (call(said=value), call(said=value, any="[1]"), f"{call(said=value)}\n\n{call(said='y')}"):
            assert _takes(tokenizer, made, text), text
            first = parse_answer(text, tools=tools).tool_calls[0]
            assert first.arguments["said"] == value  # not 12 or None
            assert first.arguments.get("any", [1]) == [1]
    for text in (call(), call(any="1", said="a"), call(said="a", other="b"), '<tool_call>{"name": "say"'):
        assert not _takes(tokenizer, made, text), text
    # In text that may hold calls, what is no call is free.
    free = constraint_of(
        compiler, tools=[CalledTool("say", schema, strict=True)], call_form=FUNCTION_FORM, parallel_tool_calls=False
    )
    assert _takes(tokenizer, free, f"Let me say it.\n{call(said='y')}") and _takes(tokenizer, free, "No.")
    assert not _takes(tokenizer, free, f"So.\n{call(other='y')}")


def text(**keywords: Any) -> dict[str, Any]:
    """The schema of a tool with one text."""
    return {"type": "object", "properties": {"a": {"type": "string", **keywords}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("keywords", "taken", "refused"),
    [
        # JSON Schema looks for a pattern anywhere, but for its anchors
        ({"pattern": "^https://"}, ["https://", "https://a.kr/?b\nc"], ["http://a", " https://a"]),
        ({"pattern": r"\d+\$"}, ["12$", "cost: 12$ or so"], ["12", "$"]),
        ({"pattern": "[0-9]$"}, ["a1", "1"], ["1a"]),
        ({"pattern": "^a|b$"}, ["a", "ax", "xb"], ["xa", "bx"]),
        ({"pattern": "^(a|[|)])$"}, ["a", "|", ")"], ["aa", "b", ""]),
        ({"pattern": r"^\w+$"}, ["ab_1"], ["한"]),
        ({"pattern": "^[0-9]+$", "maxLength": 3, "minLength": 2.0}, ["12", "123"], ["1", "1234", "ab"]),
        ({"pattern": "^[^,]+$"}, ["a", "<div>\n</div>"], ["a,b", "a\n</parameter>\n<parameter=b>\nc"]),
        ({"maxLength": 2000}, ["", "<div>", "<" * 2000], ["<" * 2001]),
        ({"maxLength": 10**12}, ["", "<"], []),
        ({"maxLength": 3}, ["", "abc", "</p"], ["abcd"]),
        ({"minLength": 3}, ["한국어", "</p", "<div>"], ["한국", "\n</parameter>\n"]),
        ({"pattern": ""}, ["", "a"], []),
    ],
)
def test_texts_keep_the_pattern_and_the_lengths_of_json_schema(
    tokenizer: Tokenizer, compiler: Compiler, keywords: dict[str, Any], taken: list[str], refused: list[str]
) -> None:
    schema = text(**keywords)
    tools = [CalledTool("f", schema, strict=True)]
    made = constraint_of(compiler, tools=tools, tool_choice="required", call_form=FUNCTION_FORM)
    for value in taken + refused:
        written = f"<tool_call>\n<function=f>\n<parameter=a>\n{value}\n</parameter>\n</function>\n</tool_call>"
        assert _takes(tokenizer, made, written) == (value in taken), value
        if value in taken:
            answer = parse_answer(written, tools=[{"function": {"name": "f", "parameters": schema}}])
            assert answer.tool_calls[0].arguments == {"a": value}
            jsonschema.validate({"a": value}, schema)


WIDE: dict[str, Any] = {"properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": {"60": {"type": "string"}}}
WIDE["$defs"] |= {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(60)}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (
            {"properties": {"a b": {}}},
            "the tool 'f' has a parameter named 'a b', which cannot be written in this model's calls",
        ),
        ({"properties": []}, "the parameters of the tool 'f': properties must be an object and required a list"),
        ({"anyOf": [{"required": ["a"]}]}, "the tool 'f' has no properties"),
        (
            {"properties": {"a": {"type": "string", "format": "uri"}}},
            "the parameter 'a' of the tool 'f' has 'format', which is not supported for a string",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "refers to '#/\\$defs/none', which is not there"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "refers to itself"),
        ({"properties": {"a": 1}}, "'a' of the tool 'f' is 1, and a schema is an object"),
        (text(minLength="x"), "has minLength 'x', and a length is an integer, 0 or more"),
        (text(maxLength=-1), "has maxLength -1, and a length"),
        (text(maxLength=True), "has maxLength True, and a length"),
        (text(minLength=3, maxLength=2), "has minLength 3 and maxLength 2, so that no text fits"),
        (text(pattern=1), "has the pattern 1, which is not a text"),
        (text(pattern="[a"), "cannot be used"),
        (WIDE, "refers to itself, or has too many forms"),
        ({"properties": {"a": {"type": "integer", "not": {}}}}, "cannot be used"),
    ],
)
def test_what_the_form_cannot_hold_is_refused(compiler: Compiler, schema: dict[str, Any], why: str) -> None:
    with pytest.raises(GrammarError, match=why):
        constraint_of(
            compiler, tools=[CalledTool("f", schema, strict=True)], tool_choice="required", call_form=FUNCTION_FORM
        )


def test_the_other_json_form_is_forced_too(compiler: Compiler, say: Callable[..., str]) -> None:
    found = Tokenizer.open(TINY)
    found.chat_template = HERMES
    form = ChatFormat(found).call_form
    options: Any = {"tools": [CalledTool("now")], "tool_choice": "required", "parallel_tool_calls": False}
    text = say(constraint_of(compiler, call_form=form, **options), 0)
    assert re.fullmatch(r'<tool_call>\n\{"name": "now", "parameters": \{\s*\}\}\n</tool_call>', text)
    [call] = parse_answer(text).tool_calls
    assert (call.name, call.arguments) == ("now", {})


def test_lengths_that_cannot_be_counted_are_ignored_where_nothing_is_strict(
    tokenizer: Tokenizer, compiler: Compiler
) -> None:
    for strict in (False, True):
        tools = [CalledTool("f", text(minLength=2001, maxLength=100_000, description="long"), strict=strict)]
        made = constraint_of(compiler, tools=tools, tool_choice="required", call_form=FUNCTION_FORM)
        written = "<tool_call>\n<function=f>\n<parameter=a>\nshort\n</parameter>\n</function>\n</tool_call>"
        assert _takes(tokenizer, made, written) == (not strict)


@pytest.mark.parametrize(
    ("schema", "taken", "refused"),
    [({"minimum": 3}, "4", ["2", '"4"']), ({"pattern": "a"}, "xa", ["b"]), ({"properties": {}}, '{"a": 1}', ['"a"'])],
)
def test_without_a_type_no_text_is_written_as_json(
    tokenizer: Tokenizer, compiler: Compiler, schema: dict[str, Any], taken: str, refused: list[str]
) -> None:
    """It would be read with its quotation marks."""
    tools = [CalledTool("f", {"properties": {"a": schema}, "required": ["a"]}, strict=True)]
    made = constraint_of(compiler, tools=tools, tool_choice="required", call_form=FUNCTION_FORM)
    for value in (taken, *refused):
        written = f"<tool_call>\n<function=f>\n<parameter=a>\n{value}\n</parameter>\n</function>\n</tool_call>"
        assert _takes(tokenizer, made, written) == (value == taken), value
