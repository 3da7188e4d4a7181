"""Held-out lines: what is compared, what is expected, and what is refused by the number of its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exaone_export.errors import CalibrationError
from exaone_export.exporter.evaluate.data import read_held_out
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.parity.evaluation import Sample
from tests.conftest import TINY

USER = [{"role": "user", "content": "What is 27 + 45?"}]
REPLIED = [*USER, {"role": "assistant", "content": "72"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(TINY)


def read(folder: Path, tokenizer: Any, *lines: dict[str, Any], **options: Any) -> list[Sample]:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_held_out(path, tokenizer, **{"seq_length": 64, "max_length": 128, **options})


def test_an_answer_stands_behind_its_prompt_and_ends_the_turn(tmp_path: Path, tokenizer: Any) -> None:
    chat, plain = read(tmp_path, tokenizer, {"messages": USER, "answer": "72"}, {"text": "1 + 1 = ", "answer": "2"})
    assert chat.answer is not None
    assert tokenizer.decode(chat.tokens[: chat.answer]).endswith("[|assistant|]\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(chat.tokens[chat.answer :]) == "72[|endofturn|]"
    assert plain.answer is not None
    assert tokenizer.decode(plain.tokens[plain.answer :]) == "2[|endofturn|]"


def test_a_line_without_an_answer_is_the_text_alone_and_is_cut(tmp_path: Path, tokenizer: Any) -> None:
    chat, plain = read(tmp_path, tokenizer, {"messages": REPLIED}, {"text": "word " * 500})
    assert chat.answer is plain.answer is None
    assert tokenizer.decode(chat.tokens).endswith("72[|endofturn|]\n")
    assert len(plain.tokens) == 64
    (short,) = read(tmp_path, tokenizer, {"text": "word " * 500}, max_length=40)
    assert len(short.tokens) == 40


def test_slices_are_those_of_calibration(tmp_path: Path, tokenizer: Any) -> None:
    tool = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
    lines = [
        {"messages": USER},
        {"messages": USER, "enable_thinking": True, "answer": "72"},
        {"messages": USER, "enable_thinking": True, "tools": [tool]},
        {"messages": USER, "tools": [tool], "slice": "own"},
    ]
    found = read(tmp_path, tokenizer, *lines, max_length=512)
    assert [sample.slice for sample in found] == ["plain", "thinking", "tool call", "own"]
    assert len(read(tmp_path, tokenizer, *lines, samples=2)) == 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"messages": USER, "answer": 72}, "line 2 of .* has an 'answer' that is empty or not a string"),
        ({"messages": USER, "answer": ""}, "line 2 of .* has an 'answer' that is empty or not a string"),
        (
            {"messages": USER, "answer": "\ud800"},
            "line 2 of .* has an 'answer' that cannot be encoded: the prompt holds half",
        ),
        ({"messages": REPLIED, "answer": "72"}, "line 2 of .* has an 'answer' after an assistant's message"),
        ({"text": "word " * 200, "answer": "x"}, "line 2 of .* tokens with its answer, and at most 128 can be run"),
        ({"text": "a"}, "line 2 of .* has one token, and a sample needs at least two"),
        ({"answer": "72"}, "line 2 of .* has neither"),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path: Path, tokenizer: Any, line: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CalibrationError, match=sentence):
        read(tmp_path, tokenizer, {"text": "some words"}, line)


def test_a_file_without_lines_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(CalibrationError, match="has no line"):
        read(tmp_path, tokenizer)
