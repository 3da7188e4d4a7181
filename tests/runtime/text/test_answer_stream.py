"""An answer that arrives in pieces is told apart as the whole is."""

from __future__ import annotations

import random
from typing import Any

import pytest

from exaone_export.runtime.text.answer import Answer, AnswerStream, Piece, ToolCall, parse_answer
from exaone_export.runtime.text.reasoning import opened_by

CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
ADD = ToolCall("add", {"a": 1})
THINK = opened_by("<think>")
TEXTS = [
    "",
    " \n ",
    "hello there",
    "<think>\na b\n</think>\n\nhello <thin> x",
    "  <think>a</think>b</think>c",
    "cut off while thin",
    "<thought>\na </think> b\n</thought>\n\nhello <thou> x",
    "of a prompt that opened it\n</thought>\n\nc </think> d",
    "reasons\n </think>\n\n said\n" + CALL + "\n" + CALL + "\n and more ",
    f"first {CALL} then {CALL} done",
    "<tool_call>add(1)</tool_call> and " + CALL,
    '<tool_call>{"name": "say", "arguments": {"text": "</tool_call>"}}</tool_call>end',
    '<tool_call> {"name": "now"} \n</tool_call>',
    '<tool_call>{"name": "add", "argu',
    '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>' + CALL,
    "<tool_call>[]</tool_call><tool_call><tool_call>" + CALL,
    '<tool_call>[{"name": "add", "arguments": {"a": 1}}, {"name": "now"}]</tool_call>',
    '<tool_call>{"name": "x", "arguments": {"a": 1' + "0" * 400 + "e-400}}</tool_call>",
    '<tool_call>{"name": "x", "arguments": {"a": "\\ud55c\\n\\"한"}}</tool_call>\u3000끝',
]


def stream(text: str, cuts: list[int], thinking: bool) -> tuple[Answer, list[Any]]:
    """The answer, and everything that was said of it, of a text that is cut at these places."""
    made = AnswerStream(reasoning=THINK if thinking else None)
    said = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        said += made.push(text[start:end])
    said += made.finish()
    return made.answer, said


def check(text: str, cuts: list[int], thinking: bool, expected: Answer) -> None:
    answer, said = stream(text, cuts, thinking)
    assert answer == expected
    pieces = [each for each in said if isinstance(each, Piece)]
    assert all(piece.text for piece in pieces)
    for kind, whole in (("thinking", expected.thinking or ""), ("content", expected.content)):
        assert "".join(piece.text for piece in pieces if piece.kind == kind) == whole
    assert tuple(each for each in said if isinstance(each, ToolCall)) == tuple(expected.tool_calls)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("thinking", [False, True])
def test_every_split_gives_the_same(text: str, thinking: bool) -> None:
    expected = parse_answer(text, reasoning=THINK if thinking else None)
    check(text, list(range(1, len(text))), thinking, expected)  # a character at a time
    for at in range(len(text) + 1):
        check(text, [at], thinking, expected)
    rng = random.Random(0)
    for _ in range(30):
        check(text, sorted(rng.choices(range(len(text) + 1), k=rng.randint(2, 6))), thinking, expected)


BITS = [
    "<thought>",
    "</thought>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    CALL,
    '{"name": "x"',
    "}",
    "]",
    "[",
    '"',
    '\\"',
    "\\u00e9",
]
BITS += [" ", "\n", "한", "<", "</", '"arguments": ', "1e999", "12", "e-399", "1" * 400, "-", "tru", "e", ",", ": "]


def test_random_answers() -> None:
    rng = random.Random(1)
    for _ in range(1500):
        text = "".join(rng.choices(BITS, k=rng.randint(0, 9)))
        for thinking in (False, True):
            expected = parse_answer(text, reasoning=THINK if thinking else None)
            most = rng.choice((1, 5, 40))
            cuts = sorted(rng.choices(range(len(text) + 1), k=len(text) // most))
            check(text, cuts, thinking, expected)


def test_text_comes_as_soon_as_it_is_known() -> None:
    made = AnswerStream(reasoning=THINK)
    assert made.push("\nso") == [Piece("thinking", "so")]
    assert made.push(" it is \n</thi") == [Piece("thinking", " it is")]
    assert made.push("nk>\n\n") == []
    assert made.push("The answer") == [Piece("content", "The answer")]
    assert made.push(" is <tool") == [Piece("content", " is")]
    assert made.push("box> ") == [Piece("content", " <toolbox>")]
    assert made.push(f"3 {CALL[:-3]}") == [Piece("content", " 3")]
    assert made.push(CALL[-3:] + "\n") == [ADD]
    assert made.finish() == []
    assert made.answer == Answer("The answer is <toolbox> 3", "so it is", (ADD,))


def test_what_is_not_a_call_is_not_held_back_to_the_end() -> None:
    made = AnswerStream()
    text = "<tool_call>add(1) is how a call begins, and this is not one of them"
    said = [each for character in text for each in made.push(character)]
    assert "".join(each.text for each in said if isinstance(each, Piece)) == text.rstrip()


def test_many_tags_in_an_argument_take_no_time() -> None:
    made = AnswerStream()
    text = '<tool_call>{"name": "say", "arguments": {"text": "' + "</tool_call>" * 5000 + '"}}</tool_call>'
    for at in range(0, len(text), 12):
        made.push(text[at : at + 12])
    made.finish()
    assert made.answer == parse_answer(text) and len(made.answer.tool_calls) == 1
