"""onnxruntime-genai's tokenizer and chat template on an artifact: its text is ours, and so is the demo's answer."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from exaone_export import ChatFormat, ExaoneForCausalLM, load_tokenizer
from exaone_export.artifact.reader import Artifact
from tests.conftest import ROOT, TINY
from tests.examples.scripts import imported

og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")

SPACES = "\t\n\r\x0b\x0c\xa0\u1680\u2009\u2028\u3000"
OTHERS = "a7()+?{_\"'\x1c\x7f\u200b\ufeff\xbd\u0663\U0001f642"
PIECES = (
    *(*SPACES, *OTHERS, " ", "  ", "   ", " a", " 7", " (", "\r\n", "\n\n", "\n\n\n", "\t\t"),
    *("Busan", "the", "don't", "'s", "38", "47", "...", '{"name": "x"}', "Where is Mina?"),
    *("한국어", "안녕", "日本", "e\u0301", "\U0001f469\u200d\U0001f467"),
    *("<think>", "</think>", "<tool_call>", "[|user|]", "[|assistant|]", "[|endofturn|]"),
)


@pytest.fixture(scope="module")
def folder(export_artifact: Callable[..., Path]) -> Path:
    return export_artifact(TINY, "ort-cpu", max_length=512)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return og.Tokenizer(og.Model(str(folder)))


def texts(count: int) -> list[str]:
    """Random texts: of words, spaces and tags, side by side or with spaces between, or of any characters at all."""
    rng = random.Random(0)

    def any_character() -> str:
        return chr(rng.choice([rng.randrange(1, 0x80), rng.randrange(0xA0, 0x3000), rng.randrange(0xAC00, 0xD7A4)]))

    def text() -> str:
        if rng.random() < 0.2:
            return "".join(any_character() for _ in range(rng.randrange(1, 20)))
        pieces = [rng.choice(PIECES) for _ in range(rng.randrange(1, 14))]
        return rng.choice(("", "", " ")).join(pieces) + rng.choice(("", " ", "\n", "  ", "\t"))

    return [text() for _ in range(count)]


def test_its_tokens_and_texts_are_ours(tokenizer: Any) -> None:
    ours = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    plain = Tokenizer.from_file(str(TINY / "tokenizer.json"))  # the splitting rules in one pattern, as it would be read
    rule = pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), behavior="isolated")
    plain.pre_tokenizer = pre_tokenizers.Sequence(
        [rule, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    for text in texts(3000):
        tokens = ours.encode(text, add_special_tokens=False).ids
        assert plain.encode(text, add_special_tokens=False).ids == tokens, ascii(text)
        assert tokenizer.encode(text).tolist() == tokens, ascii(text)
        if shown := ours.decode(tokens):  # of control tokens alone it makes a replacement character
            assert tokenizer.decode(tokens) == shown, ascii(text)


CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "서울", "days": [1, 2.5, None]}}}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "marks": [{"role": "user", "content": "Is <b> & \"q\" 'x' safe?"}],
    "system": [{"role": "system", "content": "너는 도우미다."}, {"role": "user", "content": "안녕 🙂\n  두 줄"}],
    "turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 3?"},
        {"role": "assistant", "content": "<think>\nOnes: 5.\n</think>\n\n5"},
        {"role": "user", "content": "감사합니다"},
    ],
    "results of tools": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "맑음"},
        {"role": "tool", "content": {"degrees": 21.5, "rain": False, "wind": None}},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "content": "ok"},
    ],
}


@pytest.fixture(scope="module")
def demo() -> Any:
    with imported(ROOT / "examples" / "demo.py") as script:
        yield script


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("with_tools", [False, True])
def test_its_chat_prompt_is_ours(name: str, with_tools: bool, tokenizer: Any, demo: Any, folder: Path) -> None:
    messages, tools = CONVERSATIONS[name], [demo.WEATHER] if with_tools else None
    ours = load_tokenizer(folder)
    for asks in (True, False):
        prompt = tokenizer.apply_chat_template(
            json.dumps(messages), tools=json.dumps(tools) if tools else None, add_generation_prompt=asks
        )
        wanted = ours.apply_chat_template(messages, tools=tools, add_generation_prompt=asks, tokenize=False)
        assert prompt == wanted


def test_the_how_to_gives_the_answers_of_the_demo(demo: Any, folder: Path) -> None:
    """Its first block asks one question; the blocks behind it say how tools and thinking are asked for."""
    page = (ROOT / "docs" / "how-to" / "open-with-onnxruntime-genai.md").read_text()
    first, tools, thinking, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ways = {"plain, said more than three windows ago": "", "tool call": tools, "thinking": thinking}
    chat = ChatFormat(load_tokenizer(folder))
    with ExaoneForCausalLM.from_pretrained(folder) as model:
        for name, question, options in demo.TURNS:
            prompt = chat.encode([{"role": "user", "content": question}], **options)
            made = model.generate(**prompt, do_sample=False, max_new_tokens=64)
            wanted = chat.tokenizer.decode(made[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
            code = first.replace("exaone-int4", str(folder)).replace('"What is the capital of France?"', repr(question))
            line = next(each for each in code.splitlines() if each.startswith("prompt = "))
            code = code.replace(line, ways[name].replace("exaone-int4", str(folder)) or line)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(code, {})
            assert printed.getvalue() == wanted, name


def test_the_file_for_foundry_local_has_the_chat_prompt(folder: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "open-from-other-languages.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    copy = Path(shutil.copytree(folder, tmp_path / "exaone-int4"))
    exec(program.replace("models/local/exaone-int4", str(copy)), {})
    described = json.loads((copy / "inference_model.json").read_text())
    said = "[|user|]\n{Content}[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n"
    assert described == {"Name": "exaone-int4", "PromptTemplate": {"assistant": "{Content}", "prompt": said}}
    assert Artifact.open(copy).folder == copy
