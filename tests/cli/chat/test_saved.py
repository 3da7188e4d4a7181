"""A saved conversation: read back as it was, refused where it is not one, and never written by half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exaone_export.cli.chat.saved import read_conversation, write_conversation
from exaone_export.cli.main import cli
from exaone_export.errors import ConversationError

CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "서울", "days": [1, 2.5, None]}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "날씨?\nNow."},
    {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "sunny"},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "맑음"},
]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    for messages in (MESSAGES, []):
        write_conversation(path, messages)
        assert read_conversation(path) == messages
    assert [each.name for each in tmp_path.iterdir()] == ["chat.json"]


def test_what_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.json"
    write_conversation(path, MESSAGES)
    before = path.read_bytes()
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": deep}}}
    with pytest.raises(ConversationError, match="is nested deeper than 32 levels"):
        write_conversation(path, [{"role": "assistant", "content": "", "tool_calls": [call]}])

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(ConversationError, match=r"cannot be written \(No space left on device\)"):
        write_conversation(path, [])
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["chat.json"]


def text_of(messages: object, **more: object) -> str:
    return json.dumps({"format": "exaone-export conversation", "version": 1, "messages": messages, **more})


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not valid JSON"),
        ("[]", "holds a list, not an object"),
        ("{}", "is not a saved conversation; give a file that /save has written"),
        (text_of([], version=2), "version: Invalid enum value 2"),
        (text_of([], more=1), "has an unknown key 'more'"),
        (text_of({}), "at messages, which is not"),
        (text_of([{"content": "a"}]), "has no key 'messages"),
        (text_of([{"role": "root", "content": "a"}]), "Invalid value 'root'"),
        (text_of([{"role": ["user"], "content": "a"}]), "messages"),
        (text_of([{"role": "user", "content": 3}]), "has 3 at messages"),
        (text_of([{"role": "user", "content": "a", "name": "b"}]), "has an unknown key"),
        (text_of([MESSAGES[1], MESSAGES[0]]), "has message 2 of the system, which only begins one"),
        (text_of([MESSAGES[1], MESSAGES[3]]), "has message 2 of a tool that was not called"),
        (text_of([*MESSAGES[:5], MESSAGES[4]]), "has message 6 of a tool that was not called"),
        (text_of([{"role": "user", "content": "\ud800"}]), "chat.json"),
        (text_of([]).replace("{", '{"version": 1, ', 1), "gives the key 'version' twice"),
        (text_of([]).replace("1", "NaN"), "contains NaN, which is not JSON"),
        ('{"a":' * 5000, "chat.json"),
        (" " * (17 << 20), "has 17825792 bytes, and at most 16777216 are read"),
    ],
    ids=range(19),
)
def test_a_hostile_file_is_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    with pytest.raises(ConversationError) as caught:
        read_conversation(path)
    assert said in str(caught.value) and str(caught.value).endswith(".")


def test_another_file_is_not_replaced_and_a_refused_one_changes_nothing(artifact: Path, tmp_path: Path) -> None:
    mine, other, long = tmp_path / "mine.json", tmp_path / "notes.txt", tmp_path / "long.json"
    other.write_text("mine")
    write_conversation(long, [{"role": "user", "content": "word " * 3000}])
    lines = [
        "What is 38 + 47?",
        "/save",
        "/load",
        f"/save {other}",
        f"/save {tmp_path}",
        f"/save {tmp_path}/nothing/a.json",
        "/save \0",
        f"/save {'a' * 300}",
        f"/load {other}",
        f"/load {tmp_path}",
        f"/load {tmp_path}/nothing.json",
        f"/load {long}",
        f"/save {mine}",
    ]
    done = CliRunner().invoke(cli, ["chat", str(artifact)], input="\n".join(lines))
    told = done.stderr.splitlines()[1:]
    assert told == [
        "error: /save needs the name of a file; write: /save FILE.",
        "error: /load needs the name of a file; write: /load FILE.",
        f"error: {other} exists, and is not the file of this conversation; give another name, or remove it first.",
        f"error: {tmp_path} exists, and is not the file of this conversation; give another name, or remove it first.",
        f"error: {tmp_path}/nothing/a.json cannot be written (No such file or directory); the conversation goes on, so "
        "give another file.",
        r"error: '\x00' is not a path (embedded null byte); give another file.",
        f"error: {'a' * 60!r} and so on is not a path (File name too long); give another file.",
        f"error: {other} is not valid JSON (Expecting value: line 1 column 1 (char 0)); correct the file.",
        f"error: {tmp_path} is not a regular file; give the path of a file.",
        f"error: {tmp_path}/nothing.json does not exist; check the path and its permissions.",
        told[10],
        f"saved 2 messages to {mine}.",
    ]
    assert told[10].startswith("error: the conversation has ") and "the artifact holds 2,048" in told[10]
    assert read_conversation(mine)[1] == {"role": "assistant", "content": "85"} and other.read_text() == "mine"
