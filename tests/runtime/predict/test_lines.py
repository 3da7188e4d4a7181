"""Lines of text and of JSON: what is read, and every line that cannot be used, by its number."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from exaone_export.errors import PromptError
from exaone_export.model.heads import (
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from exaone_export.runtime.predict import lines
from exaone_export.runtime.predict.lines import Line, form_of, given_texts, read_lines

CHAT = [{"role": "user", "content": "Hi"}]


def read(data: bytes, kind: str = SEQUENCE_CLASSIFICATION, form: str | None = None) -> list[Line]:
    return list(read_lines(io.BytesIO(data), "data", kind, form))


def test_plain_texts() -> None:
    found = read(b"\xef\xbb\xbf one \r\n\n \t\n{two\nthree")
    assert [(line.name, line.id, line.fields) for line in found] == [
        ("line 1 of data", 1, {"text": " one "}),
        ("line 4 of data", 4, {"text": "{two"}),
        ("line 5 of data", 5, {"text": "three"}),
    ]
    assert read(b'{"text": "a"}', form="text")[0].fields == {"text": '{"text": "a"}'}
    assert [line.fields for line in given_texts(["a", "b"], TOKEN_CLASSIFICATION)] == [{"text": "a"}, {"text": "b"}]


def test_lines_of_json() -> None:
    found = read(
        b'\n {"text": "a", "id": null}\n{"text_pair": "c", "text": "b"}\n'
        b'{"messages": [{"role": "user", "content": "Hi"}], "id": {"k": [1]}}\n'
    )
    assert [(line.id, dict(line.fields)) for line in found] == [
        (None, {"text": "a"}),
        (3, {"text_pair": "c", "text": "b"}),
        ({"k": [1]}, {"messages": CHAT}),
    ]
    assert read(b'\xef\xbb\xbf{"context": "c", "question": "q"}', QUESTION_ANSWERING)[0].fields["question"] == "q"
    assert read(b'{"text": "a"}', HIDDEN_STATES) == [Line("line 1 of data", 1, {"text": "a"})]


SEQUENCE = (
    "sequence-classification takes 'text' (also 'text_pair'), or 'messages' (also 'tools' and 'enable_thinking'), each "
    "with or without an 'id'"
)


@pytest.mark.parametrize(
    ("kind", "line", "sentence"),
    [
        (SEQUENCE_CLASSIFICATION, "{}", f"gives nothing, and {SEQUENCE}; correct the line."),
        (SEQUENCE_CLASSIFICATION, '{"id": 1}', f"gives nothing, and {SEQUENCE}; correct the line."),
        (SEQUENCE_CLASSIFICATION, '{"text": "a", "label": 1}', f"gives 'text' and 'label', and {SEQUENCE}; correct"),
        (SEQUENCE_CLASSIFICATION, '{"text_pair": "a"}', f"gives 'text_pair', and {SEQUENCE}"),
        (SEQUENCE_CLASSIFICATION, '{"text": "a", "messages": []}', f"gives 'text' and 'messages', and {SEQUENCE}"),
        (TOKEN_CLASSIFICATION, '{"messages": []}', "gives 'messages', and token-classification takes 'text', each"),
        (QUESTION_ANSWERING, '{"text": "a"}', "gives 'text', and question-answering takes 'question' and 'context'"),
        (QUESTION_ANSWERING, '{"question": "a", "context": ""}', "has an empty 'context'; write a text there."),
        (SEQUENCE_CLASSIFICATION, '{"text": ""}', "has an empty 'text'; write a text there."),
        (SEQUENCE_CLASSIFICATION, '{"text": "a", "text_pair": ""}', "has an empty 'text_pair'; write a text there."),
        (SEQUENCE_CLASSIFICATION, '{"text": 3}', "has a 'text' that is not a string; write a text there."),
        (SEQUENCE_CLASSIFICATION, '{"text": null}', "has a 'text' that is not a string; write a text there."),
        (SEQUENCE_CLASSIFICATION, '{"messages": []}', "has 'messages' that are not a list of objects with a 'role'"),
        (SEQUENCE_CLASSIFICATION, '{"messages": ["a"]}', "has 'messages' that are not a list of objects with a 'role'"),
        (SEQUENCE_CLASSIFICATION, '{"text": "a", "tools": []}', f"gives 'text' and 'tools', and {SEQUENCE}"),
        (
            SEQUENCE_CLASSIFICATION,
            f'{{"messages": {json.dumps(CHAT)}, "tools": [1]}}',
            "has 'tools' that are not a list",
        ),
        (
            SEQUENCE_CLASSIFICATION,
            f'{{"messages": {json.dumps(CHAT)}, "enable_thinking": 1}}',
            "has an 'enable_thinking'",
        ),
        (SEQUENCE_CLASSIFICATION, '{"text": "a", "text": "b"}', "gives the key 'text' twice"),
        (SEQUENCE_CLASSIFICATION, '{"text": "a", "id": NaN}', "contains NaN, which is not JSON"),
        (
            SEQUENCE_CLASSIFICATION,
            '{"text": "a", "id": 1e999}',
            "has an 'id' with a number that is out of range; write",
        ),
        (SEQUENCE_CLASSIFICATION, '{"text": "a"', "is not valid JSON (Expecting ',' delimiter"),
        (SEQUENCE_CLASSIFICATION, '["a"]', "holds a list, not an object"),
        (SEQUENCE_CLASSIFICATION, "plain", "is not valid JSON (Expecting value"),
        (SEQUENCE_CLASSIFICATION, '{"text": "caf\udce9"}', "is not valid JSON ('utf-8' codec can't decode byte 0xe9"),
        (SEQUENCE_CLASSIFICATION, '{"text": "a", "id": ' + "[" * 99_999, "is nested deeper than 32 levels"),
    ],
)
def test_a_line_that_cannot_be_used(kind: str, line: str, sentence: str) -> None:
    fine = '{"question": "q", "context": "c"}' if kind == QUESTION_ANSWERING else '{"text": "fine"}'
    with pytest.raises(PromptError) as error:
        read(f"{fine}\n\n{line}\n{fine}\n".encode(errors="surrogateescape"), kind, "jsonl")
    assert str(error.value).startswith(f"line 3 of data {sentence}")
    assert str(error.value).endswith(".")


def test_an_id_that_is_not_unicode() -> None:
    with pytest.raises(PromptError, match=r"^the 'id' of line 1 of data holds half of a surrogate pair"):
        read(b'{"text": "a", "id": ["\\ud83d"]}')


@pytest.mark.parametrize(
    ("data", "kind", "sentence"),
    [
        (b"", SEQUENCE_CLASSIFICATION, "data has no line that is not blank; write one text a line, or one JSON object"),
        (b"\n \n", SEQUENCE_CLASSIFICATION, "data has no line that is not blank"),
        (b"a\ncaf\xe9", TOKEN_CLASSIFICATION, "line 2 of data holds the byte 0xe9 at offset 3, which is not UTF-8"),
        (
            b"a\n",
            QUESTION_ANSWERING,
            "question-answering takes no plain texts; pass JSON lines of 'question' and 'conte",
        ),
        (b"a\n" + b"b" * 16 + b"\n", HIDDEN_STATES, "line 2 of data is longer than 16 bytes; break it into several."),
    ],
)
def test_a_file_that_cannot_be_used(data: bytes, kind: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 16)
    with pytest.raises(PromptError) as error:
        read(data, kind)
    assert str(error.value).startswith(sentence)


def test_texts_of_the_command_line() -> None:
    for texts, kind, sentence in (
        (["a", ""], HIDDEN_STATES, "text 2 has an empty 'text'; write a text there."),
        (["a"], QUESTION_ANSWERING, "question-answering takes no plain texts; pass JSON lines of 'question' and"),
    ):
        with pytest.raises(PromptError) as error:
            list(given_texts(texts, kind))
        assert str(error.value).startswith(sentence)


def test_the_form_of_a_file(tmp_path: Path) -> None:
    expected: dict[str, Any] = {"a.jsonl": "jsonl", "a.JSON": "jsonl", "a.txt": "text", "a": "text"}
    for name in expected:
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe")
    assert {name: form_of(tmp_path / name) for name in expected} == expected
    assert form_of(tmp_path / "pipe") is None
