"""Without a terminal: lines in, answers on stdout, the rest on stderr; slash commands; what is refused."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.chat import conversation
from exaone_export.cli.main import cli
from exaone_export.errors import ChatTemplateError
from tests.conftest import TINY

Talk = Callable[..., Result]


@pytest.fixture
def talk(artifact: Path) -> Talk:
    def run(text: str | bytes, *options: object) -> Result:
        arguments = ["chat", str(artifact), "--threads", "1", *map(str, options)]
        return CliRunner().invoke(cli, arguments, input=text)

    return run


def test_answers_are_on_stdout_and_the_rest_on_stderr(talk: Talk) -> None:
    done = talk("What is 38 + 47?\n\nWhat is \\\n20 + 31?\n", "--system", "Be brief.", "--temperature", "0")
    assert done.exit_code == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "85" and second
    lines = done.stderr.splitlines()
    assert len(lines) == 2 and all(line.endswith("left, end of turn") for line in lines)
    assert "3 tokens, " in lines[0] and ", 0 reused, " in lines[0]


def test_turns_go_on_from_the_cache_and_the_context_left_is_right(talk: Talk) -> None:
    for options in ((), ("--thinking", "--temperature", "0")):
        done = talk("What is 38 + 47?\nWhat is 20 + 31?\nWhat is 38 + 47?\n", "--json", *options)
        assert done.exit_code == 0, done.stderr
        turns = [json.loads(line) for line in done.stdout.splitlines()]
        assert turns[0]["content"] == "85" and bool(turns[0]["thinking"]) == bool(options)
        for before, after in itertools.pairwise(turns):
            # The next prompt is what is used, and a message of as many tokens as the first one's prompt.
            assert 2048 - before["context_left"] + turns[0]["prompt_tokens"] == after["prompt_tokens"]
            assert 0 < after["reused_tokens"] < after["prompt_tokens"]
        assert turns[0]["finish_reason"] == "stop" and turns[0]["timings"]["tokens_per_second"] > 0


def test_functions_are_called_and_what_they_print_is_not_the_answer(talk: Talk, weather: Path) -> None:
    asked = "What is the weather in Seoul?\n"
    done = talk(asked, "--tools", weather)
    assert (done.exit_code, done.stdout) == (0, "It is 21 degrees in Seoul.\n")
    lines = done.stderr.splitlines()
    assert lines[:3] == [
        "call get_weather(city='Seoul')",
        "looking out of the window",
        'get_weather gave {"degrees":21}',
    ]
    (turn,) = map(json.loads, talk(asked, "--tools", weather, "--json").stdout.splitlines())
    assert turn["tool_calls"] == [{"name": "get_weather", "arguments": {"city": "Seoul"}, "result": '{"degrees":21}'}]
    assert turn["generated_tokens"] > 20
    assert (
        "get_weather gave error: RuntimeError: no window there"
        in talk(asked.replace("Seoul", "Oslo"), "--tools", weather).stderr
    )


def test_the_next_line_is_the_result_of_a_schema_s_call(talk: Talk, schemas: Path) -> None:
    asked = "What is the weather in Seoul?"
    done = talk(f'/tools\n{asked}\n{{"degrees": 17}}\n', "--tools", schemas)
    assert done.stdout == "It is 17 degrees in Seoul.\n"
    assert done.stderr.startswith("get_weather(city)  Weather of a city\n")
    assert "the next line is the result of get_weather(city='Seoul')" in done.stderr
    assert "get_weather gave error: there is no result" in talk(asked, "--tools", schemas).stderr


def test_commands(talk: Talk, tmp_path: Path) -> None:
    saved = tmp_path / "안녕 하세요.json"
    lines = [
        "/system Be brief.",
        "/system",
        "What is 38 + 47?",
        f"/save {saved}",
        "What is 20 + 31?",
        "/save",
        "/undo",
        "/reset",
        "/undo",
        f"/load {saved}",
        f"/save {saved}",
        "/think on",
        "/think show",
        "/mode reasoning",
        "/mode default",
        "/system off",
        "/tools",
        "/help",
        "/exit",
        "never read",
    ]
    done = talk("\n".join(lines))
    told = [line for line in done.stderr.splitlines() if "reused" not in line]
    assert done.stdout.splitlines()[0] == "85" and len(done.stdout.splitlines()) == 2
    assert told[:14] == [
        "system message: Be brief.",
        "system message: Be brief.",
        f"saved 3 messages to {saved}.",
        f"saved 5 messages to {saved}.",
        "took back: What is 20 + 31?",
        "the conversation is empty.",
        "error: there is nothing to undo; the conversation is empty.",
        told[7],
        f"saved 5 messages to {saved}.",
        "the model reasons before it answers; reasoning is folded.",
        "the model reasons before it answers; reasoning is shown.",
        "mode reasoning: temperature 0.6, top-p 0.95.",
        "mode default: greedy.",
        "there is no system message.",
    ]
    assert told[7].startswith("loaded 5 messages, ") and told[7].endswith(f" tokens, from {saved}.")
    assert told[14] == "there are no tools; start with --tools FILE."
    assert [line.split()[0] for line in told[15:-1]] == [
        "/help", "/think", "/mode", "/tools", "/system", "/undo", "/reset", "/save", "/load", "/exit",
    ]  # fmt: skip
    assert done.exit_code == 1  # of /undo


def test_folded_reasoning_is_one_line_and_can_be_shown_later(talk: Talk) -> None:
    done = talk("What is 38 + 47?\n/think show\nWhat is 38 + 47?\n", "--thinking", "--temperature", "0")
    lines = done.stderr.splitlines()
    assert lines[0] == "thought for 26 tokens" and done.stdout.splitlines()[0] == "85"
    thought = "Ones: 8 + 7 = 15. Tens: 3 + 4 + 1 = 8."
    assert lines[2:4] == [thought, "the model reasons before it answers; reasoning is shown."]
    assert lines[4] == "thinking:" and lines[6].startswith("thought for ")


def test_an_answer_that_is_cut_says_so(talk: Talk) -> None:
    done = talk("What is 38 + 47?\n", "--max-new-tokens", 2)
    status, warning = done.stderr.splitlines()
    assert status.endswith(", token limit")
    assert warning == (
        "warning: the answer was cut off at its limit of 2 tokens; start with a larger --max-new-tokens, or ask the "
        "model to continue."
    )


def test_errors_are_sentences_and_the_conversation_goes_on(talk: Talk) -> None:
    text = "/sav x\n/nothing\nWhat is 38 + 47?\n" + "word " * 3000 + "\n//tmp\n/think maybe\n/mode wild\n"
    done = talk(text.encode() + b"caf\xe9\n")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "85" and len(done.stdout.splitlines()) == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0] == (
        "error: /sav is not a command; a message that begins with a slash is written with two; did you mean /save?"
    )
    assert errors[1].endswith("/help lists the commands.")
    assert "the artifact holds 2048" in errors[2] and errors[2].endswith(", or make room with /undo or /reset.")
    assert errors[3] == "error: /think does not take 'maybe'; use on, off, fold or show."
    assert errors[4] == "error: /mode does not take 'wild'; use default or reasoning."
    assert errors[5].startswith("error: line 8 holds the byte 0xe9 at offset 3, which is not UTF-8")
    lines = [json.loads(line) for line in talk("/nothing\nWhat is 38 + 47?\n", "--json").stdout.splitlines()]
    assert lines[0]["error"].startswith("/nothing is not a command") and lines[1]["content"] == "85"


def test_an_option_that_has_no_effect_is_refused(talk: Talk) -> None:
    done = talk("What is 38 + 47?\n", "--top-p", "0.9")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: --top-p is for sampling; pass --temperature too.\n"
    done = talk("/think off\n/mode default\n/mode\n/think\n", "--thinking", "--top-p", "0.9")
    assert done.stderr.splitlines() == [
        "error: --top-p is for sampling; pass --temperature too.",
        "error: top_p is for sampling, and the mode default of EXAONE 4.0 is greedy; name a temperature too.",
        "no mode: temperature 0.6, top-p 0.9.",
        "the model reasons before it answers; reasoning is folded.",
    ]


def test_a_change_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ChatTemplateError("the chat template failed.")

    monkeypatch.setattr(conversation, "sampling_of", fail)
    monkeypatch.setattr(conversation.Conversation, "runner", None)
    monkeypatch.setattr(conversation.Conversation, "chat", SimpleNamespace(format=None))
    none: Any = None
    talk = conversation.Conversation("x", none, conversation.Settings(mode="default"), none, none)
    with pytest.raises(ChatTemplateError):
        talk.change(mode="reasoning", thinking=True)
    assert (talk.settings.mode, talk.settings.thinking) == ("default", False)


def test_the_first_prompt_is_kept_for_the_next_conversation(talk: Talk, tmp_path: Path) -> None:
    kept = tmp_path / "prompt"
    options = ("--system", "Answer briefly, please, and politely. " * 5, "--prompt-cache", kept)
    asked = "What is 38 + 47?\nWhat is 38 + 47?\n"
    first = talk(asked, *options)
    assert first.exit_code == 0 and re.fullmatch(
        rf"kept the prompt, \d+ tokens, in {kept}", first.stderr.splitlines()[0]
    )
    before = kept.read_bytes()
    again = talk(asked, *options)
    assert (again.exit_code, again.stdout) == (0, first.stdout) and kept.read_bytes() == before
    assert int(re.search(r"(\d+) reused", again.stderr)[1]) > 20  # type: ignore[index]
    kept.write_bytes(before[:-1])
    broken = talk(asked, *options)
    assert (broken.exit_code, broken.stdout) == (2, "") and "error: " in broken.stderr and str(kept) in broken.stderr
    refused = talk("word " * 3000, "--prompt-cache", tmp_path / "other")
    assert refused.exit_code == 1 and "the artifact holds 2048" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_nothing_to_say_is_a_conversation_too(talk: Talk) -> None:
    for text in ("", "\n \n"):
        done = talk(text)
        assert (done.exit_code, done.output) == (0, "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", "0", "--top-p", "0.5"], "--top-p is for sampling; pass a --temperature above 0"),
        (["--temperature", "1e-9"], "--temperature 1e-09 is too small to sample with"),
        (["--system", "\udcff"], "the system message holds the byte 0xff, which is not UTF-8"),
        (["--mode", "wild"], "'wild' is not one of 'default', 'reasoning'"),
    ],
)
def test_options_are_refused_before_anything_is_opened(options: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["chat", "nothing here", *options])
    assert done.exit_code == 2 and said in done.stderr and "nothing here" not in done.stderr


def test_an_artifact_is_refused_before_its_weights_are_read(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(*options: object) -> Result:
        return CliRunner().invoke(cli, ["chat", *map(str, options)])

    assert "is not a folder" in run(tmp_path / "nothing").stderr
    bad = tmp_path / "bad.py"
    bad.write_text("1 / 0")
    monkeypatch.setattr("exaone_export.artifact.reader.Artifact.checking_weights", lambda self: pytest.fail("read"))
    done = run(artifact, "--tools", bad)
    why = "fails at line 1 with ZeroDivisionError: division by zero; correct it until python3"
    assert (done.exit_code, done.stderr) == (2, f"error: {bad} {why} {bad} runs.\n")


def test_what_cannot_be_loaded_is_one_sentence(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        from exaone_export.errors import ArtifactError

        raise ArtifactError("the weights are damaged; export the model again.")

    monkeypatch.setattr("exaone_export.artifact.reader.Artifact.checking_weights", fail)
    done = CliRunner().invoke(cli, ["chat", str(artifact)], input="Hello\n")
    assert (done.exit_code, done.output) == (1, "error: the weights are damaged; export the model again.\n")


LOADED = "print(sorted({'torch', 'transformers', 'onnx', 'prompt_toolkit'} & set(sys.modules)), file=sys.stderr)"


def test_neither_torch_nor_transformers_is_loaded_and_an_interrupt_ends_it(artifact: Path, weather: Path) -> None:
    code = f"import sys; from exaone_export.cli.main import cli\ntry: cli()\nfinally: {LOADED}"
    command = [sys.executable, "-c", code, "chat", str(artifact), "--tools", str(weather), "--temperature", "0"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("What is the weather in Seoul?\n")
        process.stdin.flush()
        assert process.stdout.readline() == "It is 21 degrees in Seoul.\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read().splitlines()[-2:] == ["error: interrupted.", "[]"]
    assert TINY.is_dir()
