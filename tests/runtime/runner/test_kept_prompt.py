"""`Runner.save_prompt`: a system prompt that another process loads, and turns that go on from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import KeptPromptError, PromptError
from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.text.chat import ChatFormat
from tests.conftest import TINY
from tests.manifests import put
from tests.runtime.runner.test_runner import HOMES, LOADED

SYSTEM = f"You know where people live. {HOMES} {HOMES}"


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


SECOND = """
import sys
from exaone_export import Chat, Runner

with Runner.open(sys.argv[1], threads=1) as runner:
    tokens = runner.load_prompt(sys.argv[2])
    turn = Chat(runner, system=sys.argv[3], max_new_tokens=30).send("Where is Lena?")
    print(tokens, turn.read().content, list(turn.tokens), turn.timings.reused, sep="|")
"""


def test_a_system_prompt_is_run_once(artifact: Path, tmp_path: Path) -> None:
    """Its tail is the beginning of the model's turn, which the next prompt has the user's in place of."""
    path = tmp_path / "system"
    with Runner.open(artifact, threads=1) as runner:
        prompt = ChatFormat(runner.tokenizer).encode([{"role": "system", "content": SYSTEM}])
        told: list[int] = []
        assert runner.save_prompt(path, prompt, progress=lambda _step, done, _total: told.append(done)) == len(prompt)
        assert told[-1] == len(prompt) > 64, "it is longer than two windows of 32"
    with Runner.open(artifact, threads=1) as cold:
        turn = Chat(cold, system=SYSTEM, max_new_tokens=30).send("Where is Lena?")
        wanted = turn.read().content
    done = subprocess.run(
        [sys.executable, "-c", SECOND + LOADED, artifact, path, SYSTEM], capture_output=True, text=True, check=True
    )
    tokens, content, ids, reused = done.stdout.strip().split("|")
    assert (content, ids) == (wanted, str(list(turn.tokens))) and "Oslo" in content
    assert int(tokens) == len(prompt) and len(prompt) - 24 <= int(reused) < len(prompt)
    assert done.stderr == "[]\n", "neither torch nor transformers was loaded"


def test_a_conversation_is_left_and_gone_on_with(artifact: Path, tmp_path: Path) -> None:
    """With reasoning, which the template drops from the turn before: the cache goes back behind the last question."""
    with Runner.open(artifact, threads=1) as runner, Runner.open(artifact, threads=1) as later:
        chat = Chat(runner, system=SYSTEM, enable_thinking=True, max_new_tokens=80)
        chat.send("What is 38 + 47?").read()
        runner.save_prompt(tmp_path / "kept")
        turn = chat.send("What is 20 + 31?")
        wanted = turn.read()
        later.load_prompt(tmp_path / "kept")
        other = Chat(later, enable_thinking=True, max_new_tokens=80)
        other.messages = chat.messages[:3]
        again = other.send("What is 20 + 31?")
        assert again.read() == wanted and again.tokens == turn.tokens
        assert again.timings.reused == turn.timings.reused > 0.7 * turn.prompt_tokens


def test_it_belongs_to_one_artifact(artifact: Path, export_artifact: Callable[..., Path], tmp_path: Path) -> None:
    """Another layout of caches is another one; a parity record or a new default in the folder is not."""
    path, same = tmp_path / "kept", tmp_path / "same"
    shutil.copytree(artifact, same)
    put(same, "generation_config.json", b"{}")
    Artifact.open(same).record_parity({"checked": True})
    with Runner.open(artifact, threads=1) as runner:
        runner.save_prompt(path, "Hello")
        with pytest.raises(PromptError, match="a prompt has at least one token"):
            runner.save_prompt(path, "")
        with pytest.raises(PromptError, match="the artifact holds 512"):
            runner.save_prompt(path, [3] * 512)
    with Runner.open(same, threads=1) as runner:
        assert runner.load_prompt(path) == len(runner.tokenizer.encode("Hello"))
    with (
        Runner.open(export_artifact(TINY, "ort-cpu", max_length=64), threads=1) as runner,
        pytest.raises(KeptPromptError, match="was saved with another artifact, whose caches mean something else; open"),
    ):
        runner.load_prompt(path)
