"""`generate --prompt-lookup`: the trained checkpoint's answers, which quote their prompts, come out the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import cli
from tests.conftest import TINY

HOMES = "Homes: Lena Oslo, Omar Lima, Ana Rome, Kim Cairo, Ben Paris."


def generate(artifact: Path, prompt: str, *more: str) -> Result:
    arguments = ["generate", str(artifact), "-p", prompt, "--max-new-tokens", "40", *more]
    return CliRunner().invoke(cli, arguments)


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.mark.parametrize("thinking", [[], ["--thinking", "--temperature", "0"]])
@pytest.mark.parametrize("prompt", [f"{HOMES} Where are Lena, Omar and Ana?", "What is 27 + 45?"])
def test_the_same_answer(artifact: Path, prompt: str, thinking: list[str]) -> None:
    plain, guessed = (
        json.loads(generate(artifact, prompt, "--json", *thinking, *more).stdout)
        for more in ([], ["--prompt-lookup", "5"])
    )
    assert guessed["tokens"] == plain["tokens"]
    streamed = generate(artifact, prompt, "--prompt-lookup", "5", *thinking)
    assert streamed.exit_code == 0, streamed.output
    assert streamed.stdout == generate(artifact, prompt, *thinking).stdout


def test_sampling_with_guesses(artifact: Path) -> None:
    options = ("--temperature", "0.7", "--seed", "3", "--prompt-lookup", "5")
    first, second = (generate(artifact, HOMES, *options) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout


def test_beams_are_refused(artifact: Path) -> None:
    refused = generate(artifact, HOMES, "--prompt-lookup", "5", "--num-beams", "2")
    assert refused.exit_code == 2
    assert refused.stderr == "error: --prompt-lookup continues one row; leave out --num-beams.\n"
