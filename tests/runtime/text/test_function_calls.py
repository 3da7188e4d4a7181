"""Tool calls as ``<function=name><parameter=key>value</parameter></function>``, whole and cut anywhere."""

from __future__ import annotations

import pytest

from exaone_export.runtime.text.answer import Answer, AnswerStream, ToolCall, parse_answer


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
