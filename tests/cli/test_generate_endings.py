"""How an answer of `generate` ends: the closing line, the JSON, warnings, progress, Ctrl-C and a reader that leaves."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import exaone_export
from exaone_export.__main__ import main
from exaone_export.cli import answer, answer_by_mirror, outcome, progress
from exaone_export.runtime.core.sampling import Sampling
from tests.cli.test_cli import run
from tests.conftest import TINY
from tests.manifests import put

SUM = ("-p", "What is 38 + 47?")
BEAMS, LOOKUP = ("--num-beams", "2"), ("--prompt-lookup", "3")
LONG = ("-p", "Hello", "--raw", "--temperature", "1000", "--top-k", "800", "--seed", "5", "--max-new-tokens", "480")
"""Words at random, as many as there is room for."""

CLOSING = re.compile(
    r"(?P<tokens>\d+) tokens?(, (?P<rate>\d+\.\d)/s)?(, first after \d+\.\d\d s)?(, seed (?P<seed>\d+))?"
    r"; stopped by: (?P<why>.*)"
)


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture
def changed(artifact: Path, tmp_path: Path) -> Callable[..., Path]:
    """The artifact with other values in its generation_config.json."""

    def change(**values: Any) -> Path:
        folder = shutil.copytree(artifact, tmp_path / "changed")
        own = json.loads((folder / "generation_config.json").read_text())
        put(folder, "generation_config.json", json.dumps(own | values).encode())
        return folder

    return change


@pytest.fixture
def reach(artifact: Path, changed: Callable[..., Path]) -> Callable[..., tuple[Path, tuple[str, ...]]]:
    """``reach(path, **values)``: an artifact and the options with which an answer takes that path."""

    def find(path: str, **values: Any) -> tuple[Path, tuple[str, ...]]:
        if path == "mirror":
            values["max_time"] = 1000.0  # of transformers' loop alone, and without effect
        options = {"beams": BEAMS, "lookup": LOOKUP}.get(path, ())
        return (changed(**values) if values else artifact), options

    return find


def closing(result: Result, status: int = 0) -> dict[str, str]:
    assert result.exit_code == status, result.output
    (line,) = [line for line in result.stderr.splitlines() if "stopped by" in line]
    found = CLOSING.fullmatch(line)
    assert found, line
    return found.groupdict()


@pytest.mark.parametrize("path", ["runner", "lookup", "beams", "mirror"])
def test_the_closing_line(reach: Any, path: str) -> None:
    folder, options = reach(path)
    result = run("generate", folder, *SUM, *options)
    assert result.stdout == "85\n" and len(result.stderr.splitlines()) == 1
    found = closing(result)
    assert (found["tokens"], found["seed"], found["why"]) == ("3", None, "end of turn")
    assert float(found["rate"]) > 0 and "first after" in result.stderr
    cut = run("generate", folder, *SUM, *options, "--max-new-tokens", "1")
    assert closing(cut)["why"] == "cut off" and closing(cut)["rate"] is None
    assert cut.stderr.splitlines()[1:] == [
        "warning: the answer was cut off at 1 token; pass a larger --max-new-tokens, up to 492."
    ]


@pytest.mark.parametrize("path", ["runner", "lookup", "beams", "mirror"])
def test_the_same_as_json(reach: Any, path: str) -> None:
    folder, options = reach(path)
    result = run("generate", folder, *SUM, *options, "--json")
    found = json.loads(result.stdout)
    times = found["timings"]
    assert (found["content"], found["finish_reason"], found["seed"], result.stderr) == ("85", "stop", None, "")
    assert times["load_seconds"] > 0 and 0 < times["first_token_seconds"] <= found["seconds"] + 1e-3
    assert times["tokens_per_second"] > 0
    cut = run("generate", folder, *SUM, *options, "--json", "--max-new-tokens", "1")
    assert json.loads(cut.stdout)["finish_reason"] == "length" and "cut off at 1 token" in cut.stderr
    assert json.loads(cut.stdout)["timings"]["tokens_per_second"] is None


@pytest.mark.parametrize("path", ["runner", "mirror"])
def test_a_stop_string(reach: Any, path: str) -> None:
    folder, _ = reach(path, stop_strings=["8"])
    for options in ((), BEAMS, LOOKUP):
        result = run("generate", folder, *SUM, *options)
        assert result.stdout.startswith("8") and closing(result)["why"] == "stop string"


def test_stop_strings_of_the_command(artifact: Path) -> None:
    for options in ((), BEAMS, LOOKUP):
        result = run("generate", artifact, "-p", "Who are you?", "--stop", "EXAONE 5", "--stop", "EXA", *options)
        assert (result.stdout, closing(result)["why"]) == ("I am a tiny EXA\n", "stop string")
    refused = run("generate", artifact, *SUM, "--stop", "")
    assert refused.exit_code == 2 and "--stop is empty" in refused.stderr


def test_more_tokens_are_enough_where_that_is_advised(artifact: Path) -> None:
    thinking = (*SUM, "--thinking", "--temperature", "0")
    cut = run("generate", artifact, *thinking, "--max-new-tokens", "5")
    advised = re.search(r"pass a larger --max-new-tokens, up to (\d+)\.", cut.stderr)
    assert advised
    assert closing(run("generate", artifact, *thinking, "--max-new-tokens", advised[1]))["why"] == "end of turn"
    assert run("generate", artifact, *thinking, "--max-new-tokens", str(int(advised[1]) + 1)).exit_code == 2
    assert closing(run("generate", artifact, *thinking))["why"] == "end of turn"  # without a number there is room


def test_a_longer_artifact_is_enough_where_that_is_advised(
    artifact: Path, export_artifact: Callable[..., Path]
) -> None:
    asked = (*SUM, "--system", "You answer sums.", "--thinking", "--temperature", "0")
    cut = run("generate", export_artifact(TINY, "ort-cpu", max_length=40), *asked)
    assert closing(cut)["why"] == "cut off"
    assert cut.stderr.endswith("the artifact holds 40 tokens, so export with a larger --max-length, up to 2048.\n")
    assert closing(run("generate", artifact, *asked))["why"] == "end of turn"


def test_the_model_s_own_limit_is_no_matter_of_exporting() -> None:
    given = outcome.Prepared(None, [1] * 30, 10, 40, 40, Sampling(), {}, None)  # type: ignore[arg-type]
    told = outcome._more(outcome.Outcome("", [1] * 10, "length", "", 0.0, 0.0, 0.0, 0.0), given)
    assert told == "prompt and answer fill the 40 tokens that the model takes, so shorten the prompt"


def test_reasoning_is_drawn_and_can_be_repeated(artifact: Path, changed: Callable[..., Path]) -> None:
    """By the preset where the file is greedy, by the file where it samples, and greedy where that is asked for."""
    hot = ("--temperature", "3")
    first = json.loads(run("generate", artifact, *SUM, "--thinking", *hot, "--json").stdout)
    again = json.loads(
        run("generate", artifact, *SUM, "--thinking", *hot, "--json", "--seed", str(first["seed"])).stdout
    )
    assert again["tokens"] == first["tokens"] and again["seed"] == first["seed"]
    other = json.loads(run("generate", artifact, *SUM, "--thinking", *hot, "--json").stdout)
    assert other["seed"] != first["seed"]

    drawn = run("generate", artifact, *SUM, "--thinking")
    assert drawn.stdout.endswith("\n85\n") and closing(drawn)["seed"] is not None
    assert closing(run("generate", artifact, *SUM, "--thinking", "--temperature", "0"))["seed"] is None
    assert closing(run("generate", artifact, *SUM, "--mode", "reasoning"))["seed"] is not None
    assert closing(run("generate", artifact, *SUM, "--thinking", "--mode", "default"))["seed"] is None
    assert closing(run("generate", artifact, *SUM, "--thinking", *BEAMS))["seed"] is None  # a search draws nothing


@pytest.mark.parametrize("path", ["runner", "mirror"])
def test_what_the_sampling_is(path: str, reach: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = answer_by_mirror if path == "mirror" else answer
    monkeypatch.setattr(module, "print_answer", lambda _artifact, _asked, prepared: found.append(prepared) or 0)
    folder, _ = reach(path, do_sample=True, temperature=0.9, top_k=7)
    found: list[Any] = []
    thinking = (*SUM, "--thinking")
    for more in ((), ("--mode", "reasoning"), ("--top-p", "0.5"), ("--mode", "default"), ("--presence-penalty", "0")):
        assert run("generate", folder, *thinking, *more).exit_code == 0
    own = {"temperature": 0.9, "top_k": 7, "top_p": 1.0}
    preset = {"temperature": 0.6, "top_k": 7, "top_p": 0.95}
    for prepared, expected in zip(found, (own, preset, own | {"top_p": 0.5}, {"temperature": 0.0}, own), strict=True):
        assert {name: getattr(prepared.sampling, name) for name in expected} == expected
        assert prepared.length == 512 - len(prepared.tokens)  # room for as much as there is
    assert run("generate", folder, *SUM).exit_code == 0
    assert (found[-1].sampling.temperature, found[-1].length) == (0.0, 256)


@pytest.mark.parametrize("name", ["--presence-penalty", "--frequency-penalty"])
def test_penalties_choose_other_tokens(artifact: Path, name: str) -> None:
    def tokens(*more: str) -> list[int]:
        found: list[int] = json.loads(run("generate", artifact, *asked, *more, "--json").stdout)["tokens"]
        return found

    asked = (*LONG, "--temperature", "9", "--max-new-tokens", "120")
    assert tokens() == tokens(name, "0") != tokens(name, "2")


@pytest.mark.parametrize("path", ["runner", "mirror"])
@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_answer(reach: Any, path: str, as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of JSON nothing is printed before the end, so there the interruption comes with a token."""
    module = answer_by_mirror if path == "mirror" else answer
    folder, _ = reach(path)
    seen: list[object] = []

    def interrupt(*_: object, **__: object) -> None:
        seen.append(None)
        if len(seen) == 4:
            signal.raise_signal(signal.SIGINT)

    if not as_json:
        real = module.say
        monkeypatch.setattr(module, "say", lambda text, **more: (real(text, **more), interrupt()))
    else:
        real_stream = answer_by_mirror.chat.stream
        real_chain = answer.chain
        monkeypatch.setattr(answer, "chain", lambda *of: (interrupt() or piece for piece in real_chain(*of)))
        monkeypatch.setattr(
            answer_by_mirror.chat,
            "stream",
            lambda *of, **more: (interrupt() or piece for piece in real_stream(*of, **more)),
        )
    result = run("generate", folder, *LONG, *(("--json",) if as_json else ()))
    assert result.exit_code == 130, result.output
    assert "Traceback" not in result.stderr and "error" not in result.stderr
    if as_json:
        found = json.loads(result.stdout)
        assert found["finish_reason"] == "cancelled" and found["content"] and 3 <= len(found["tokens"]) < 400
    else:
        found = closing(result, 130)
        assert found["why"] == "cancelled" and result.stdout.strip() and int(found["tokens"]) < 400


def test_ctrl_c_in_a_terminal(artifact: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "exaone_export", "generate", artifact, *LONG, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and first and out.endswith(b"\n")
    (line,) = err.decode().splitlines()
    found = CLOSING.fullmatch(line)
    assert found and found["why"] == "cancelled" and int(found["tokens"]) < 400


def test_a_reader_that_goes_away_ends_it_in_silence(artifact: Path) -> None:
    command = '"$@" | head -c 1 > /dev/null; exit ${PIPESTATUS[0]}'
    words = [sys.executable, "-m", "exaone_export", "generate", artifact, *LONG, "--threads", "1"]
    done = subprocess.run(["bash", "-c", command, "-", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


def test_streams_that_are_closed(artifact: Path) -> None:
    """Nothing is read of stdin, no file that is opened takes the number of stdout, and stderr still tells."""
    words = [sys.executable, "-m", "exaone_export", "generate", artifact, "-p", "-", "--threads", "1"]
    done = subprocess.run(["bash", "-c", '"$@" <&- >&-', "-", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and CLOSING.fullmatch(done.stderr.strip()), done.stderr


CLOSED = """
import os, subprocess, sys
taken = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
from exaone_export.__main__ import _open_standard_streams
_open_standard_streams()
print(sys.stdin.read(), flush=True)
os.write(taken, b"kept")
subprocess.run(["sh", "-c", "true 5>&1"], check=True)
"""


def test_programs_that_are_started_have_streams_and_a_file_keeps_its_number(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    done = subprocess.run(["bash", "-c", '"$@" <&- >&-', "-", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, (tmp_path / "file").read_text()) == (0, "", "kept")


def test_a_program_s_own_stream_is_printed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    monkeypatch.setattr(sys, "stdout", printed)
    monkeypatch.setattr(sys, "argv", ["exaone-export", "--version"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit, match="0"):
        main()
    assert printed.getvalue() == f"exaone-export, version {exaone_export.__version__}\n"


SHOWN = """
import sys
from exaone_export.cli import answer, progress
from exaone_export.cli.main import cli
answer._LONG_TO_LOAD, progress._SHORT_SECONDS = 0, -1
cli()
"""


def test_progress_is_shown_on_a_terminal_and_never_on_stdout(artifact: Path) -> None:
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SHOWN, "generate", artifact, *SUM],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.stdout == b"85\n"
    steps = [shown.index(step) for step in ("load", "prefill", "20/20 tokens", "stopped by: end of turn")]
    assert steps == sorted(steps)


def test_no_progress_elsewhere(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "_LONG_TO_LOAD", 0)
    monkeypatch.setattr(progress, "_SHORT_SECONDS", -1)
    assert CLOSING.fullmatch(run("generate", artifact, *SUM).stderr.strip())
