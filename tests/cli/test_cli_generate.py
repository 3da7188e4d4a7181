"""``generate`` and ``parity --prompt`` on tokenizers, chats and defaults as other people's checkpoints have them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from exaone_export.cli.main import cli
from exaone_export.exporter import export as pipeline
from exaone_export.runtime.text.answer import TAGS
from tests.cli.test_cli import run
from tests.conftest import TINY
from tests.manifests import put

SUM = ("-p", "What is 38 + 47?", "--max-new-tokens", "64")
GREEDY_THINKING = ("--thinking", "--temperature", "0")
NEAR = "  Buy:\n\n- 2 apples\n- 3 pears"


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture
def changed(artifact: Path, tmp_path: Path) -> Callable[..., Path]:
    """The artifact with values of its JSON files replaced: ``changed(generation_config={"num_beams": 2})``."""

    def change(**files: dict[str, Any]) -> Path:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(artifact, folder)
        for name, values in files.items():
            content = json.loads((folder / f"{name}.json").read_text()) | values
            put(folder, f"{name}.json", json.dumps(content).encode())
        return folder

    return change


def special_tags() -> dict[str, Any]:
    """Of tokenizer.json: the tags as special tokens."""
    added = json.loads((TINY / "tokenizer.json").read_text())["added_tokens"]
    return {"added_tokens": [token | {"special": token["special"] or token["content"] in TAGS} for token in added]}


def parts(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    del found["seconds"], found["timings"]
    return found


def test_tags_that_are_special_tokens(artifact: Path, changed: Callable[..., Path], tmp_path: Path) -> None:
    special = changed(tokenizer=special_tags())
    weather = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": weather}}
    (tmp_path / "tools.json").write_text(json.dumps([tool]))
    calls = ("-p", "What is the weather in Seoul?", "--tools", tmp_path / "tools.json")
    for options in ((*SUM, *GREEDY_THINKING), (*SUM, *GREEDY_THINKING, "--max-new-tokens", "5"), SUM, calls):
        expected = parts(run("generate", artifact, *options, "--json"))
        assert parts(run("generate", special, *options, "--json")) == expected
        assert run("generate", special, *options).stdout == run("generate", artifact, *options).stdout
    assert parts(run("generate", special, *SUM, *GREEDY_THINKING, "--json"))["content"] == "85"


def test_stop_strings_of_the_file(changed: Callable[..., Path]) -> None:
    folder = changed(generation_config={"stop_strings": ["8 + 7"]})
    options = (*SUM, *GREEDY_THINKING)
    assert run("generate", folder, *options).stdout == "Ones: 8 + 7\n"
    assert parts(run("generate", folder, *options, "--json"))["thinking"] == "Ones: 8 + 7"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"cache_implementation": "static"},
            "cache_implementation='static', which is ignored: an artifact runs on its",
        ),
        (
            {"num_beams": 2, "num_return_sequences": 2},
            "num_return_sequences=2, which is ignored: one answer is printed",
        ),
        ({"num_beams": 2}, None),
        ({"do_sample": True, "num_return_sequences": 2}, "num_return_sequences=2, which is ignored"),
        ({"return_dict_in_generate": True, "output_scores": True}, None),
        ({"prompt_lookup_num_tokens": 3}, None),
        ({"token_healing": True}, "token_healing=True, which is ignored"),
        ({"eos_token_id": [8, 99999]}, "names eos_token_id [99999], which is ignored: the vocabulary is 0 to 842"),
    ],
)
@pytest.mark.parametrize("option", [(), ("--json",)])
def test_defaults_of_the_file(
    changed: Callable[..., Path], values: dict[str, Any], sentence: str | None, option: tuple[str, ...]
) -> None:
    result = run("generate", changed(generation_config=values), *SUM, *option)
    assert result.exit_code == 0, result.output
    assert (json.loads(result.stdout)["content"] if option else result.stdout.strip()) == "85"
    told = [line for line in result.stderr.splitlines() if "generation_config.json" in line]
    assert len(told) == (sentence is not None), result.stderr
    assert "defect" not in result.stderr and (sentence is None or sentence in told[0])


def test_prompt_lookup_beside_beams_of_the_file(changed: Callable[..., Path]) -> None:
    folder = changed(generation_config={"num_beams": 2})
    refused = run("generate", folder, *SUM, "--prompt-lookup", "3")
    assert refused.exit_code == 2 and "generation_config.json of the artifact gives num_beams=2" in refused.stderr
    assert run("generate", folder, *SUM, "--prompt-lookup", "3", "--num-beams", "1").stdout == "85\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-p", "caf\udce9"), "the prompt holds the byte 0xe9, which is not UTF-8; convert it"),
        (("-p", "caf\udce9", "--raw"), "the prompt holds the byte 0xe9, which is not UTF-8; convert it"),
        (("-p", "a", "--system", "caf\udce9"), "the chat holds the byte 0xe9, which is not UTF-8; convert it"),
        (("-p", "-"), "the prompt on stdin holds the byte 0xe9 at offset 3, which is not UTF-8; convert it"),
        (("-p", "a", "--tools", "bytes"), "is not JSON in UTF-8"),
        (("-p", "a", "--tools", "half"), "the chat holds half of a surrogate pair, \\ud83d"),
        (("-p", "a", "--tools", "deep"), "is not JSON in UTF-8"),
    ],
)
def test_text_that_is_not_utf_8(artifact: Path, arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b'["caf\xe9"]')
    (tmp_path / "half").write_text('[{"type": "function", "function": {"name": "\\ud83d", "parameters": {}}}]')
    (tmp_path / "deep").write_text("[" * 100_000)
    given = [str(tmp_path / argument) if (tmp_path / argument).is_file() else argument for argument in arguments]
    result = CliRunner().invoke(cli, ["generate", str(artifact), *given], input=b"caf\xe9")
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and "defect" not in result.stderr and result.stdout == ""


def test_a_prompt_on_stdin_has_an_end() -> None:
    result = CliRunner().invoke(cli, ["generate", "no-artifact", "-p", "-"], input=bytes((4 << 20) + 1))
    assert result.exit_code == 2
    assert result.stderr == "error: the prompt on stdin is longer than 4.0 MiB; shorten it.\n"


def test_a_token_without_an_embedding(changed: Callable[..., Path]) -> None:
    token = {"id": 843, "content": "<extra>", "special": False}
    added = [
        *special_tags()["added_tokens"],
        token | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
    ]
    folder = changed(tokenizer={"added_tokens": added})
    assert run("generate", folder, *SUM).stdout == "85\n"
    refused = run("generate", folder, "-p", "what is <extra>?")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: the prompt holds '<extra>', token 843 of the tokenizer, and the model has")
    shown = run("doctor", folder)
    assert shown.exit_code == 0
    assert "tokenizer.json has 1 more tokens than the model's 843 embeddings: '<extra>' (843)" in shown.stdout
    assert "embeddings" not in run("doctor", TINY).stdout


def test_an_export_tells_of_tokens_without_an_embedding(random_hybrid: Path, tmp_path: Path) -> None:
    model = shutil.copytree(random_hybrid, tmp_path / "model")
    shutil.copy(TINY / "tokenizer.json", model)
    told: list[str] = []
    pipeline.export(model, tmp_path / "out", max_length=256, notice=told.append)
    (sentence,) = told
    assert sentence.startswith("tokenizer.json has 746 more tokens than the model's 97 embeddings: ")
    assert sentence.endswith("; a prompt with one of them will be refused.")


def test_parity_of_a_text_sees_another_tokenizer(artifact: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    options = ("--prompt", NEAR, "--tokens", "2")
    same = run("parity", artifact, model, *options, "--json")
    assert same.exit_code == 0, same.output
    (prompt,) = json.loads(same.stdout)["prompts"]
    assert prompt["passed"] and prompt["tokens"] == prompt["baseline_tokens"]
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "GPT2Tokenizer"}))
    other = run("parity", artifact, model, *options, "--json")
    assert other.exit_code == 1
    found = json.loads(other.stdout)
    assert not found["passed"] and all(row["passed"] for row in found["rows"])
    assert not found["prompts"][0]["passed"] and found["prompts"][0]["baseline_class"] == "GPT2Tokenizer"
    shown = run("parity", artifact, model, *options)
    assert shown.exit_code == 1 and "differs from that of GPT2Tokenizer, which transformers uses" in shown.stdout
    long = run("parity", artifact, model, "--prompt", "word " * 600)
    assert long.exit_code == 2 and "or a shorter --prompt" in long.stderr
