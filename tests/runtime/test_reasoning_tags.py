"""What reasoning is written in is read from the prompt: by the parser, grammars, the terminal and the server alike."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from exaone_export.artifact.reader import Artifact
from exaone_export.cli.main import cli
from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.text.answer import Answer, parse_answer
from exaone_export.runtime.text.chat import ChatFormat
from exaone_export.runtime.text.reasoning import Reasoning, opened_by
from exaone_export.runtime.text.tokenizer import Tokenizer
from tests.conftest import TINY
from tests.manifests import put

TURNS = "{% for m in messages %}{{ '[|' + m['role'] + '|]' + (m['content'] or '') + '[|endofturn|]\n' }}{% endfor %}"
PLAIN = TURNS + "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
DEEP = TURNS + "{% if add_generation_prompt %}{{ '[|assistant|]<thought>\n' }}{% endif %}"
THOUGHT = Reasoning("<thought>", "</thought>")
QUESTION = "What is 27 + 45?"


def with_template(folder: Path, template: str) -> Tokenizer:
    tokenizer = Tokenizer.open(folder)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("enable_thinking", [False, True])
@pytest.mark.parametrize(("template", "tags"), [(PLAIN, None), (DEEP, THOUGHT), (None, "the flag's")])
def test_the_template_decides(template: str | None, tags: Any, enable_thinking: bool) -> None:
    tokenizer = Tokenizer.open(TINY) if template is None else with_template(TINY, template)
    if template is None:
        tags = Reasoning("<think>", "</think>") if enable_thinking else None
    chat = ChatFormat(tokenizer)
    assert chat.reasoning(enable_thinking=enable_thinking) == tags
    messages = [{"role": "user", "content": "of <think> and <thought>"}]
    assert chat.opened(chat.encode(messages, enable_thinking=enable_thinking)) == tags
    said = chat.decode(tokenizer.encode("So.\n</thought>\n\n</think>\n\n72"), enable_thinking=enable_thinking)
    wanted = {THOUGHT: Answer("</think>\n\n72", "So."), None: Answer("So.\n</thought>\n\n</think>\n\n72")}
    assert said == wanted.get(tags, Answer("72", "So.\n</thought>"))


def test_tags_inside_other_tags_are_text() -> None:
    assert parse_answer("a </think> b </thought> c", reasoning=THOUGHT) == Answer("c", "a </think> b")
    assert opened_by("<think>\n\n</think>\n\n") is opened_by("") is None


def test_a_form_begins_behind_the_tags_of_the_model() -> None:
    pytest.importorskip("llguidance", reason="needs the extra serve")
    from exaone_export.runtime.constraints.constraint import Compiler
    from exaone_export.runtime.constraints.requested import AnswerForm, constraint_of

    tokenizer = Tokenizer.open(TINY)
    compiler = Compiler(tokenizer, len(tokenizer), {8})
    constraint = constraint_of(compiler, form=AnswerForm("choice", ["yes", "no"]), reasoning=THOUGHT)()  # type: ignore[misc]
    for token in tokenizer.encode("so </think> it is</thought>\n\nyes"):
        scores = np.zeros(len(tokenizer), np.float32)
        constraint.forbid(scores)
        assert np.isfinite(scores[token])
        ended = constraint.take(token)
    assert ended


@pytest.fixture(scope="module")
def deep(export_artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artifact with a template like EXAONE Deep's."""
    artifact = export_artifact(TINY, "ort-cpu", max_length=512)
    folder = shutil.copytree(artifact, tmp_path_factory.mktemp("deep") / "deep")
    put(folder, "chat_template.jinja", DEEP.encode())
    return folder


def test_a_model_that_always_reasons_is_understood_without_being_asked_to(deep: Path) -> None:
    asked = ["generate", str(deep), "-p", QUESTION, "--max-new-tokens", "12", "--temperature", "0", "--json"]
    found = json.loads(CliRunner().invoke(cli, asked).stdout)
    assert found["thinking"] and not found["content"]
    given = [each for each in asked if each not in ("--temperature", "0")]
    drawn = json.loads(CliRunner().invoke(cli, [*given, "--top-p", "0.9"]).stdout)
    assert drawn["seed"] is not None  # as an answer that reasons is
    told = CliRunner().invoke(cli, ["chat", str(deep)], input="/think off\n").stderr
    assert told == "the model reasons before it answers, which /think does not change; reasoning is folded.\n"

    with Runner.open(deep) as runner:
        turn = Chat(runner, max_new_tokens=12, temperature=0.0).send(QUESTION)
        assert turn.read().thinking == found["thinking"] and not turn.answer.content


def test_the_server_tells_the_reasoning_apart(deep: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from exaone_export.runtime.batch.answering import answer, opened_app
    from exaone_export.runtime.serve.loading import Loading

    messages = [{"role": "user", "content": QUESTION}]
    common = {"model": "deep", "temperature": 0}
    chat = {**common, "messages": messages, "max_tokens": 12}
    held = {**chat, "max_tokens": 40, "structured_outputs": {"regex": "[0-9]+"}, "logit_bias": {"8": -100}}
    response = {**common, "input": QUESTION, "max_output_tokens": 12}
    with opened_app(Artifact.open(deep), "deep", Loading(), "mean") as app:

        def ask(url: str, body: Any) -> Any:
            status, found = asyncio.run(answer(app, url, json.dumps(body).encode()))
            assert status == 200, found
            return found

        message = ask("/v1/chat/completions", chat)["choices"][0]["message"]
        assert message["reasoning_content"] and not message["content"]
        # The form is that of what follows </thought>, which reasoning of forty tokens does not reach.
        message = ask("/v1/chat/completions", held)["choices"][0]["message"]
        assert message["reasoning_content"] and not message["content"]
        found = ask("/v1/responses", response)
        assert [item["type"] for item in found["output"]] == ["reasoning"]
        assert found["usage"]["output_tokens_details"]["reasoning_tokens"] == 12


def test_a_model_that_nothing_tells_has_no_modes_and_no_reasoning(deep: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(deep, tmp_path / "mine")
    put(folder, "chat_template.jinja", b"{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    put(folder, "generation_config.json", json.dumps({"do_sample": True, "temperature": 100.0}).encode())
    asked = ["generate", str(folder), "-p", QUESTION, "--max-new-tokens", "8", "--json"]
    greedy = CliRunner().invoke(cli, [*asked, "--thinking"])
    warning = "the artifact's chat template does not support reasoning; --thinking has no effect."
    assert warning in greedy.stderr
    refused = CliRunner().invoke(cli, [*asked, "--thinking", "--top-p", "0.9"])
    assert (refused.exit_code, refused.stdout) == (2, "") and "--top-p is for sampling" in refused.stderr
    found = json.loads(greedy.stdout)
    assert (found["thinking"], found["seed"]) == (None, None)

    lines = f"/mode reasoning\n/mode\n/think\n{QUESTION}\n"
    said = CliRunner().invoke(cli, ["chat", str(folder), "--max-new-tokens", "8", "--thinking"], input=lines)
    assert warning in said.stderr
    assert "the model answers without reasoning, which /think does not change;" in said.stderr
    assert "so the mode reasoning has no recommended settings; pass a temperature" in said.stderr
    assert "no mode: greedy." in said.stderr  # and so it is, though the file samples
    assert said.stdout.strip() == found["content"].strip()
