"""In a terminal: prompt, answer, folding, Ctrl-C, several lines, history, and terminals that can do little."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.cli.chat.terminal import Terminal


def test_a_conversation(artifact: Path, tmp_path: Path) -> None:
    options = ("--thinking", "--temperature", "0", "--threads", "1")
    with Terminal("chat", artifact, *options, home=tmp_path, columns=80) as terminal:
        terminal.ask("What is 38 + 47?", "end of turn")
        shown = [
            "/help lists the commands; Ctrl-D or /exit leaves; Alt+Enter begins a new line.",
            "> What is 38 + 47?",
            "thinking:",
            "Ones: 8 + 7 = 15. Tens: 3 + 4 + 1 = 8.",
            "thought for 26 tokens",
            "85",
        ]
        assert terminal.lines[:6] == shown
        assert re.fullmatch(
            r"32 tokens, \d+\.\d/s, first after \d\.\d\d s, 0 reused, 2,02\d left, end of turn", terminal.lines[6]
        )
        assert terminal.style_of("Ones:").fg == "blue" and terminal.style_of("85").fg == "default"

        terminal.ask("/think fold", "reasoning is folded")
        terminal.ask("한국어 38 + 47?", "left,", times=2)
        assert "thinking" not in "\n".join(terminal.lines[6:])
        assert any(re.fullmatch(r"thought for \d+ tokens", line) for line in terminal.lines[6:])
        assert re.search(rb"\r\x1b\[K\x1b\[2mthinking, \d+ tokens", terminal.written), "a sign of life"
        terminal.ask("/undo", "took back: 한국어 38 + 47?")

        # A paste of two lines is one message; Alt+Enter and a backslash begin a line; Ctrl-C clears what is typed.
        terminal.wait_for_prompt()
        terminal.type("\x1b[200~What is\n38 + 47?\x1b[201~")
        terminal.wait_for(". 38 + 47?")
        terminal.type("\x1b\rNow.\\\rPlease.\r")
        terminal.wait_for("left,", times=3)
        saved = tmp_path / "saved.json"
        terminal.ask(f"/save {saved}", "saved 4 messages")
        assert json.loads(saved.read_text())["messages"][2]["content"] == "What is\n38 + 47?\nNow.\nPlease."
        terminal.wait_for_prompt()
        terminal.type("never sent")
        terminal.wait_for("> never sent")
        terminal.type("\x03")
        terminal.wait_for_prompt()
        terminal.type("\x03")
        terminal.wait_for("Ctrl-D or /exit leaves", times=2)
        # The arrow gives what was typed before.
        terminal.wait_for_prompt()
        terminal.type("\x1b[A")
        terminal.wait_for("> /save", times=2)
        terminal.type("\x15\x04")
        assert terminal.end() == 0
    history = tmp_path / ".local/state/exaone-export/chat_history"
    assert history.stat().st_mode & 0o777 == 0o600 and "+What is 38 + 47?" in history.read_text()


def test_ctrl_c_ends_an_answer_and_the_conversation_goes_on(artifact: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\ndef get_weather(city: str):\n"
        '    """Weather of a city"""\n    print("waiting", flush=True)\n    time.sleep(60)\n'
    )
    endless = ("--temperature", "1000", "--top-k", "400", "--seed", "13", "--no-history")
    with Terminal("chat", artifact, *endless, home=tmp_path) as terminal:
        terminal.wait_for_prompt()
        terminal.type("Tell me a story.\r")
        terminal.wait_for("\n", times=4)
        began = time.monotonic()
        terminal.type("\x03\x03")
        terminal.wait_for("left, interrupted")
        assert time.monotonic() - began < 0.5  # 0.2 s, beside other work
        terminal.ask(f"/save {tmp_path}/saved.json", "saved 2 messages")
        answer = json.loads((tmp_path / "saved.json").read_text())["messages"][1]
        assert answer["role"] == "assistant" and len(answer["content"]) > 80
        terminal.wait_for_prompt()
        terminal.type("/exit\r")
        assert terminal.end() == 0
    assert not (tmp_path / ".local").exists()

    with Terminal("chat", artifact, "--tools", slow, home=tmp_path, XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.ask("What is the weather in Seoul?", "waiting")
        terminal.type("\x03")
        terminal.wait_for("not run: an earlier call was interrupted")
        terminal.wait_for("left, interrupted")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0
    assert (tmp_path / "exaone-export" / "chat_history").is_file()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_shows_no_style(artifact: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / ".local").write_text("not a folder")
    options = ("--thinking", "--temperature", "0")
    with Terminal("chat", artifact, *options, home=tmp_path, **environment) as terminal:
        terminal.ask("/think fold", "reasoning is folded")
        terminal.ask("What is 38 + 47?", "end of turn")
        lines = terminal.lines
        if "TERM" not in environment:  # which has no history
            assert f"the history is not kept: {tmp_path}/.local" in "".join(lines[:3]).replace("kept:/", "kept: /")
        assert "thought for 26 tokens" in lines and "85" in lines
        assert ("." in lines) == ("TERM" in environment), "a sign of life"
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0
        assert not re.search(rb"\x1b\[[0-9;]*[1-9][0-9;]*m", terminal.written)
        assert b"\x1b" not in terminal.written or "TERM" not in environment


def test_the_user_gives_the_result_of_a_schema_s_call(artifact: Path, tmp_path: Path, schemas: Path) -> None:
    with Terminal("chat", artifact, "--tools", schemas, "--no-history", home=tmp_path) as terminal:
        terminal.ask("What is the weather in Seoul?", "\nresult of get_weather:")
        terminal.type('{"degrees": 17}\r')
        terminal.wait_for("It is 17 degrees in Seoul.")
        terminal.ask("What is the weather in Oslo?", "result of get_weather:", times=2)
        terminal.type("\x03")
        terminal.wait_for("not run: an earlier call was interrupted")
        terminal.wait_for_prompt()
        terminal.type("\x04")
        assert terminal.end() == 0


def test_a_model_that_cannot_be_loaded_ends_the_prompt(artifact: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(artifact, broken)
    data = bytearray((broken / "model.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (broken / "model.onnx.data").write_bytes(data)
    with Terminal("chat", broken, home=tmp_path) as terminal:
        assert terminal.end() == 1
        text = terminal.text.replace("\n", "")
        assert f"error: {broken}/model.onnx.data" in text.replace("error:/", "error: /")
