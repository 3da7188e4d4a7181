"""Tool calls as ``<function=name><parameter=key>value</parameter></function>``, whole and cut anywhere."""

from __future__ import annotations

import pytest

from exaone_export.runtime.text.answer import Answer, AnswerStream, ToolCall, parse_answer
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.tokenizer import Tokenizer
from tests.conftest import TINY


def written(*parameters: str, name: str = "add") -> str:
    return f"<tool_call>\n<function={name}>\n{''.join(parameters)}</function>\n</tool_call>"


def parameter(name: str, value: str) -> str:
    return f"<parameter={name}>\n{value}\n</parameter>\n"


CALLS = {
    written(parameter("a", "1"), parameter("b", "2.5")): {"a": 1, "b": 2.5},
    written(): {},
    written(parameter("city", "Seoul")): {"city": "Seoul"},
    written(parameter("text", "two\nlines \n")): {"text": "two\nlines \n"},
    written(parameter("list", '[1, {"a": null}]'), parameter("yes", "true")): {"list": [1, {"a": None}], "yes": True},
    written(parameter("quoted", '"7"')): {"quoted": '"7"'},
    written(parameter("tag", "</parameter> and </function></tool_call>")): {
        "tag": "</parameter> and </function></tool_call>"
    },
    written(parameter("nan", "NaN")): {"nan": "NaN"},
    "<tool_call><function=add><parameter=a>1</parameter></function></tool_call>": {"a": 1},
}


@pytest.mark.parametrize("text", CALLS)
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_call_is_read_wherever_its_text_is_cut(text: str, size: int) -> None:
    stream = AnswerStream()
    whole = f"Let me see.\n{text}"
    for start in range(0, len(whole), size):
        stream.push(whole[start : start + size])
    stream.finish()
    assert stream.answer == Answer("Let me see.", None, (ToolCall("add", CALLS[text]),))


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call><function=add></function>",
        "<tool_call><function=></function></tool_call>",
        "<tool_call><function=a b></function></tool_call>",
        "<tool_call><function=add>text</function></tool_call>",
        written(parameter("a", "1"), parameter("a", "2")),
        "<tool_call><function=add><parameter=a>1</function></tool_call>",
        "<tool_call><function=add><parameter=a>1</parameter></function> and more</tool_call>",
    ],
)
def test_what_is_not_a_call_stays_text(text: str) -> None:
    json_call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert parse_answer(text) == Answer(text)
    assert parse_answer(f"{text}\n{json_call}") == Answer(text, None, (ToolCall("add", {"a": 1}),))


OPTIONAL = {"anyOf": [{"type": "string"}, {"type": "null"}]}
CYCLE = {"anyOf": [{"$ref": "#/$defs/cycle"}, {"$ref": "#/$defs/a~1b"}]}


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "12345", "12345"),
        (OPTIONAL, "12345", "12345"),
        (OPTIONAL, "null", None),
        ({"type": ["string", "null"]}, "[1]", "[1]"),
        ({"$ref": "#/$defs/a~1b"}, "12345", "12345"),
        ({"$ref": "#/$defs/cycle"}, "12345", "12345"),
        ({"allOf": [{"$ref": "#/$defs/a~1b"}]}, "12345", "12345"),
        ({"enum": ["1", None]}, "1", "1"),
        ({"const": "true"}, "true", "true"),
        # what a schema allows beside texts is JSON, and nothing else is
        ({"type": ["string", "integer"]}, "12345", 12345),
        ({"type": ["string", "integer"]}, "1.5", "1.5"),
        ({"type": ["string", "integer"]}, "true", "true"),
        ({"oneOf": [{"type": "string"}, {"type": "number"}]}, "12345", 12345),
        ({"enum": ["a", 1.5]}, "1.5", 1.5),
        ({"type": "integer"}, "12345", 12345),
        # of others nothing is known
        ({}, "12345", 12345),
        ({"$ref": "#/$defs/none"}, "12345", 12345),
        (True, "12345", 12345),
    ],
)
def test_a_value_is_read_as_its_schema_says(schema: object, text: str, expected: object) -> None:
    parameters = {"properties": {"a": schema}, "$defs": {"a/b": {"type": "string"}, "cycle": CYCLE}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": parameters}}]
    whole = written(parameter("a", text))
    [call] = parse_answer(whole, tools=tools).tool_calls
    assert call.arguments == {"a": expected} and type(call.arguments["a"]) is type(expected)


def test_decoded_tokens_are_read_as_the_text_is() -> None:
    chat = ChatFormat(Tokenizer.open(TINY))
    parameters = {"type": "object", "properties": {"a": OPTIONAL}}
    tools = [{"type": "function", "function": {"name": "add", "description": "", "parameters": parameters}}]
    tokens = chat.tokenizer.encode(written(parameter("a", "12345")), add_special_tokens=False)
    assert chat.decode(tokens, tools=tools).tool_calls[0].arguments == {"a": "12345"}
    assert chat.decode(tokens).tool_calls[0].arguments == {"a": 12345}
