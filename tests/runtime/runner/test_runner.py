"""`Runner` on the trained checkpoint: the mirror's greedy answers, the artifact's own defaults, and no torch."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import exaone_export
from exaone_export.errors import ArtifactError, CopyError, MissingExtraError, PromptError, UnsupportedOptionError
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.runner.runner import Runner
from tests.conftest import TINY, without_package
from tests.manifests import put

HOMES = "Homes: Lena Oslo, Omar Lima, Ana Rome, Kim Cairo, Ben Paris."
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": WEATHER}}
]


@pytest.fixture(scope="module")
def artifact(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture(scope="module")
def runner(artifact: Path) -> Iterator[Runner]:
    with Runner.open(artifact, threads=1) as opened:
        yield opened


@pytest.fixture
def changed(artifact: Path, tmp_path: Path) -> Callable[..., Path]:
    """The artifact with other values in its generation_config.json."""

    def change(**values: Any) -> Path:
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(artifact, folder)
        content = json.loads((folder / "generation_config.json").read_text()) | values
        put(folder, "generation_config.json", json.dumps(content).encode())
        return folder

    return change


def test_greedy_tokens_are_the_mirror_s_and_transformers(runner: Runner, artifact: Path) -> None:
    """Recall beyond the windows of 32, arithmetic, reasoning and a tool call."""
    from transformers import Exaone4ForCausalLM

    from exaone_export import ChatFormat, ExaoneForCausalLM, load_tokenizer

    reference = Exaone4ForCausalLM.from_pretrained(TINY).eval()
    form = ChatFormat(load_tokenizer(artifact))
    chats: list[tuple[str, dict[str, Any]]] = [
        (f"{HOMES} Where are Lena, Omar and Ana?", {}),
        ("What is 38 + 47?", {}),
        ("What is 38 + 47?", {"enable_thinking": True}),
        ("What is the weather in Seoul?", {"tools": TOOLS}),
    ]
    with ExaoneForCausalLM.from_pretrained(artifact, threads=1) as mirror:
        for said, options in chats:
            encoded = form.encode([{"role": "user", "content": said}], **options)
            ids = encoded["input_ids"][0].tolist()
            answer = runner.generate(ids, max_new_tokens=64)
            text = answer.read()
            for model in (mirror, reference):
                wanted = model.generate(**encoded, max_new_tokens=64, do_sample=False)[0, len(ids) :]
                assert answer.tokens == wanted.tolist(), said
            assert answer.finish_reason == "stop" and text and "[|" not in text


def test_prompt_lookup_gives_the_same_answer_in_fewer_steps(runner: Runner, changed: Callable[..., Path]) -> None:
    """An answer that quotes its prompt; greedy and drawn, asked for and by default of the file."""
    prompt = f"{HOMES} {HOMES} Homes:"
    for options in ({}, {"temperature": 0.5, "seed": 2}):
        plain = runner.generate(prompt, max_new_tokens=40, logit_bias={8: -100.0}, **options)
        found = runner.generate(
            prompt, max_new_tokens=40, logit_bias={8: -100.0}, prompt_lookup_num_tokens=6, **options
        )
        assert found.read() == plain.read() and found.tokens == plain.tokens
        assert found.steps < plain.steps == 39
    with Runner.open(changed(prompt_lookup_num_tokens=6, max_matching_ngram_size=3), threads=1) as other:
        again = other.generate(prompt, max_new_tokens=40, logit_bias={8: -100.0})
        assert again.read() and again.steps < 39
    with pytest.raises(UnsupportedOptionError, match="prompt_lookup_num_tokens is 0; it must be at least 1"):
        runner.generate(prompt, prompt_lookup_num_tokens=0)


def test_pieces_come_one_by_one_and_join_to_the_text(runner: Runner) -> None:
    answer = runner.generate("Hello", max_new_tokens=12, logprobs=1, logit_bias={8: -100.0})
    pieces = list(answer)
    assert len(pieces) > 5 and "".join(pieces) == answer.text
    assert answer.text == runner.tokenizer.decode(answer.tokens) and len(answer.logprobs) == 12
    assert answer.finish_reason == "length"
    assert answer.timings.tokens_per_second(12) > 0  # type: ignore[operator]


def test_a_stop_string_ends_the_answer_with_the_token_that_completes_it(runner: Runner) -> None:
    whole = runner.generate("Hello", max_new_tokens=20)
    whole.read()
    stop = whole.text[5:9]
    answer = runner.generate("Hello", max_new_tokens=20, stop=stop)
    assert answer.read() == whole.text[: whole.text.index(stop)]
    assert (answer.stopped, answer.finish_reason) == (stop, "stop") and len(answer.tokens) < 20
    with pytest.raises(UnsupportedOptionError, match="a stop string is empty"):
        runner.generate("Hello", stop=["a", ""])


def test_leaving_an_answer_ends_it_and_the_next_one_is_right(runner: Runner) -> None:
    wanted = runner.generate("Hello", max_new_tokens=40).read()
    answer = runner.generate("Hello", max_new_tokens=400)
    pieces = iter(answer)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert answer.finish_reason == "cancelled"
    assert runner.generate("Hello", max_new_tokens=40).read() == wanted


def test_defaults_of_the_file(changed: Callable[..., Path], caplog: Any) -> None:
    """They hold where a caller is silent, as in generate() of transformers."""
    values = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2}
    with Runner.open(changed(**values, max_new_tokens=7, stop_strings="zz"), threads=1) as runner:
        assert runner.defaults.sampling({"seed": 3}) == Sampling(0.7, 50, 0.9, repetition_penalty=1.2, seed=3)
        assert runner.defaults.sampling({"temperature": 0}) == Sampling(repetition_penalty=1.2)
        assert runner.defaults.sampling({"temperature": 2.0, "top_k": 0}).top_k == 0
        assert runner.defaults.stop_strings == ("zz",) and runner.defaults.stop_ids == {8}
        answer = runner.generate("Hello")
        answer.read()
        assert len(answer.tokens) <= 7
        again = [runner.generate("Hello", seed=1, max_new_tokens=9).read() for _ in range(2)]
        assert again[0] == again[1]
        assert len(runner.tokenizer.encode("word " * 99)) < 512


def test_what_the_runner_does_not_honour_is_told(changed: Callable[..., Path]) -> None:
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("exaone_export.runtime.runner.defaults")
    logger.addHandler(handler)
    try:
        Runner.open(changed(num_beams=2, typical_p=1.0, length_penalty=2.0, cache_implementation="static")).close()
    finally:
        logger.removeHandler(handler)
    assert len(told) == 2
    assert "cache_implementation='static', which is ignored: an artifact runs on its own hybrid cache" in told[0]
    assert "gives num_beams=2, which is ignored: Runner does not support it, and ExaoneForCausalLM does" in told[1]


def test_an_answer_without_a_length_ends_where_the_cache_is_full(export_artifact: Callable[..., Path]) -> None:
    with Runner.open(export_artifact(TINY, "ort-cpu", max_length=64), threads=1) as runner:
        answer = runner.generate([3] * 60, logit_bias={8: -100.0})
        answer.read()
        assert len(answer.tokens) == 4 and answer.finish_reason == "length"
        with pytest.raises(PromptError, match="an answer of up to 5 come to 65"):
            runner.generate([3] * 60, max_new_tokens=5)
        with pytest.raises(PromptError, match="the artifact holds 64"):
            runner.generate([3] * 64)


def test_what_is_refused(runner: Runner, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedOptionError, match="num_beams is not an option of an answer; use one of"):
        runner.generate("Hello", num_beams=2)
    with pytest.raises(PromptError, match="a prompt has at least one token"):
        runner.generate("")
    with pytest.raises(PromptError, match="which is not UTF-8"):
        runner.generate("caf\udce9")
    with pytest.raises(PromptError, match="token 9999"):
        runner.generate([9999])
    for prompt in (None, b"Hi", ["Hi"], [[1], [2, 3]], iter([1]), [1.5], {1: 2}):
        with pytest.raises(PromptError, match="must be a list of whole numbers; pass one text, or the ids that the"):
            runner.generate(prompt)  # type: ignore[arg-type]
    for length in (True, 1.5, "3"):
        with pytest.raises(PromptError, match=r"max_new_tokens is .*; it must be a whole number"):
            runner.generate("Hi", max_new_tokens=length)  # type: ignore[arg-type]
    for stop in (5, ["a", 5], {"a": [1]}.values()):
        with pytest.raises(UnsupportedOptionError, match="it must be a text, or a list of texts"):
            runner.generate("Hi", stop=stop)  # type: ignore[arg-type]
    for token in (9999, 1 << 40):  # which the tokenizer has not either, so nobody added it
        with pytest.raises(PromptError, match=f"holds token {token}, and the vocabulary is 0 to 842; use"):
            runner.generate([token])
    monkeypatch.setattr("exaone_export.artifact.reader.Artifact.device", "cuda")
    without_package(monkeypatch, "torch")
    monkeypatch.delitem(sys.modules, "exaone_export.runtime.sessions.cuda_graphs", raising=False)
    with pytest.raises(MissingExtraError, match="the target ort-cpu needs torch, which is not installed; run: pip"):
        Runner.open(artifacts["ort-cpu"])
    with pytest.raises(ArtifactError, match="is not a folder"):
        Runner.open("nothing")


def test_it_is_named_by_the_package() -> None:
    assert exaone_export.Runner is Runner and exaone_export.Chat.__name__ == "Chat"


TEN_LINES = """
import sys
from exaone_export import Chat, Runner

with Runner.open(sys.argv[1], threads=1) as runner:
    chat = Chat(runner)
    for piece in chat.send("What is 38 + 47?"):
        print(piece, end="", flush=True)
"""
LOADED = (
    "print(sorted({'torch', 'transformers', 'onnx', 'onnx_ir', 'rich.progress'} & set(sys.modules)), file=sys.stderr)"
)


def test_ten_lines_to_an_answer_load_neither_torch_nor_transformers(artifact: Path, tmp_path: Path) -> None:
    """And they leave nothing in the user's folders but hashes, such as the identifier that ONNX Runtime sends home."""
    quiet = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")  # with which it writes none
    env = {name: value for name, value in os.environ.items() if name not in quiet} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", TEN_LINES + LOADED, artifact], capture_output=True, text=True, check=True, env=env
    )
    assert (done.stdout, done.stderr) == ("85", "[]\n")
    left = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {Path(".cache/exaone-export/hashes/hashes.json")}


def test_the_command_loads_neither_torch_nor_transformers(artifact: Path) -> None:
    more = [(), ("--json",), ("--temperature", "1", "--seed", "3"), ("--raw",), ("--prompt-lookup", "5")]
    given = ["generate", str(artifact), "-p", "What is 38 + 47?", "--max-new-tokens", "8"]
    code = f"""
import sys
from exaone_export.cli.main import cli
for more in {more}:
    cli([*{given}, *more], standalone_mode=False)
    {LOADED}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if line.startswith("[")] == ["[]"] * len(more), done.stderr
    assert torch.__name__ in sys.modules, "here they are loaded"


def test_what_is_open_is_neither_pickled_nor_copied_with_its_model(runner: Runner, artifact: Path) -> None:
    chat, threads = exaone_export.Chat(runner), "share it between threads, or give another process the artifact's"
    with exaone_export.ExaoneForCausalLM.from_pretrained(artifact, threads=1) as model:
        for each, instead in (
            (runner, threads),
            (chat, "make another Chat of the runner"),
            (chat.send("Hi", max_new_tokens=2), r"pass on what read\(\) returns"),
            (runner.generate([5], max_new_tokens=2), r"pass on what read\(\) returns, its text"),
            (model, threads),
        ):
            for way in (pickle.dumps, copy.deepcopy):
                with pytest.raises(CopyError, match=f"^the {type(each).__name__} belongs to .* deep-copied; {instead}"):
                    way(each)
            twin = copy.copy(each)
            assert type(twin) is type(each) and twin is not each and vars(twin) == vars(each)
        assert torch.equal(copy.copy(model)(torch.tensor([[5]])).logits, model(torch.tensor([[5]])).logits)
    answer = chat.send("Hi", max_new_tokens=2).read()
    assert copy.copy(chat).messages == chat.messages and pickle.loads(pickle.dumps(answer)) == answer
    assert issubclass(CopyError, TypeError), "what pickle and multiprocessing raise"
