"""Forced tool calls are written as the chat template writes calls, and are read again as the schema says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from exaone_export.errors import GrammarError
from exaone_export.runtime.constraints.constraint import Compiled, Compiler
from exaone_export.runtime.constraints.requested import constraint_of
from exaone_export.runtime.constraints.tool_calls import CalledTool
from exaone_export.runtime.text.answer import parse_answer
from exaone_export.runtime.text.call_form import JSON_CALLS, CallForm, FunctionCalls, JsonCalls
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.tokenizer import Tokenizer
from tests.conftest import TINY

STOP = 8
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
        ("{{ raise_exception('no tools') if tools else '' }}", JSON_CALLS),
    ],
)
def test_the_form_of_a_template(template: str | None, form: CallForm) -> None:
    found = Tokenizer.open(TINY)
    if template is not None:
        found.chat_template = template
    assert ChatFormat(found).calls == form


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Compiler:
    pytest.importorskip("llguidance", reason="needs the extra serve")
    return Compiler(tokenizer, len(tokenizer), {STOP})


@pytest.fixture(scope="module")
def say(tokenizer: Tokenizer) -> Callable[..., str]:
    lengths = np.array([len(tokenizer.decode([index])) or 99 for index in range(len(tokenizer))])
    closing = np.array([any(each in tokenizer.decode([index]) for each in '"}]<') for index in range(len(tokenizer))])

    def said(made: Compiled | None, seed: int) -> str:
        """The text of random logits; behind 60 tokens the shortest that closes something is chosen."""
        assert made is not None
        constraint, rng, tokens = made(), np.random.default_rng(seed), list[int]()
        for place in range(600):
            scores = rng.normal(size=len(tokenizer)).astype(np.float32)
            if place > 60:
                scores += 20 * closing - 5 * lengths.astype(np.float32)
                scores[STOP] += 100
            # A text that may be anything is left by the way that ends it.
            ending = tokenizer.encode("\n</parameter>\n", add_special_tokens=False)
            scores[ending] += 3 + 30 * (place > 60)
            constraint.forbid(scores)
            token = int(scores.argmax())
            assert np.isfinite(scores[token])
            if token == STOP:
                break
            tokens.append(token)
            if constraint.take(token):
                break
        return tokenizer.decode(tokens)

    return said


CITY = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["a", "é", 7]},
        "digits": {"type": "string", "pattern": "^[0-9]{3}$"},
        "short": {"type": "string", "minLength": 1, "maxLength": 4},
        "point": {"$ref": "#/$defs/point"},
        "maybe": {"type": ["string", "null"], "pattern": "[a-c]{2}"},
        "either": {"anyOf": [{"const": "x"}, {"type": "boolean"}]},
    },
    "required": ["count", "kind", "digits", "point"],
    "additionalProperties": False,
    "$defs": {"point": {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "maxItems": 2}},
}
TOOLS = [CalledTool("find", CITY, strict=True), CalledTool("now")]
SCHEMAS = [{"type": "function", "function": {"name": "find", "parameters": CITY}}]


@pytest.mark.parametrize("seed", range(8))
def test_a_forced_call_has_the_form_and_keeps_the_schema(
    compiler: Compiler, say: Callable[..., str], seed: int
) -> None:
    options: Any = {"tools": TOOLS[: 1 + seed % 2], "tool_choice": "required", "parallel_tool_calls": False}
    text = say(constraint_of(compiler, calls=FUNCTION_FORM, **options), seed)
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
    constraint = made()
    for token in [*tokenizer.encode(text, add_special_tokens=False), STOP]:
        scores = np.zeros(len(tokenizer), np.float32)
        constraint.forbid(scores)
        if not np.isfinite(scores[token]):
            return False
        constraint.take(token)
    return True


def test_texts_may_be_anything_and_optional_parameters_may_be_left_out(
    tokenizer: Tokenizer, compiler: Compiler
) -> None:
    schema = {"type": "object", "properties": {"said": {"type": "string"}, "any": {}}, "required": ["said"]}
    made = constraint_of(compiler, tools=[CalledTool("say", schema)], tool_choice="required", calls=FUNCTION_FORM)
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
        compiler, tools=[CalledTool("say", schema, strict=True)], calls=FUNCTION_FORM, parallel_tool_calls=False
    )
    assert _takes(tokenizer, free, f"Let me say it.\n{call(said='y')}") and _takes(tokenizer, free, "No.")
    assert not _takes(tokenizer, free, f"So.\n{call(other='y')}")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"a b": {}}}, "have one with the name 'a b'"),
        ({"properties": []}, "have no list of parameters"),
        ({"anyOf": [{"required": ["a"]}]}, "have no properties"),
        ({"properties": {"a": {"type": "string", "format": "uri"}}}, "'a', has 'format', which is not supported"),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "refers to '#/\\$defs/none', which is not there"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "refers to itself"),
        ({"properties": {"a": 1}}, "'a', is 1, and a schema is an object"),
        ({"properties": {"a": {"type": "integer", "not": {}}}}, "cannot be used"),
    ],
)
def test_what_the_form_cannot_hold_is_refused(compiler: Compiler, schema: dict[str, Any], why: str) -> None:
    with pytest.raises(GrammarError, match=why):
        constraint_of(
            compiler, tools=[CalledTool("f", schema, strict=True)], tool_choice="required", calls=FUNCTION_FORM
        )


def test_the_other_json_form_is_forced_too(compiler: Compiler, say: Callable[..., str]) -> None:
    found = Tokenizer.open(TINY)
    found.chat_template = HERMES
    form = ChatFormat(found).calls
    options: Any = {"tools": [CalledTool("now")], "tool_choice": "required", "parallel_tool_calls": False}
    text = say(constraint_of(compiler, calls=form, **options), 0)
    assert re.fullmatch(r'<tool_call>\n\{"name": "now", "parameters": \{\s*\}\}\n</tool_call>', text)
    [call] = parse_answer(text).tool_calls
    assert (call.name, call.arguments) == ("now", {})
