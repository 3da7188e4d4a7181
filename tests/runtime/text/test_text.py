"""Chat prompts of the trained tiny checkpoint, and answers taken apart."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exaone_export.errors import ArtifactError, ChatTemplateError, PromptError
from exaone_export.runtime.core.cancellation import Cancellation
from exaone_export.runtime.mirror.text.chat import ChatFormat, stream
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text.answer import TAGS, Answer, AnswerStream, ToolCall, parse_answer
from exaone_export.runtime.text.chat import left_out_of_answers
from exaone_export.runtime.text.reasoning import opened_by
from exaone_export.runtime.text.stream import TextStream
from exaone_export.runtime.text.tokenizer import Tokenizer

TINY = Path(__file__).parents[3] / "examples" / "exaone4-tiny"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
ADD = ToolCall("add", {"a": 1})
THINK = opened_by("<think>")


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(load_tokenizer(TINY))


def test_a_prompt_opens_the_models_turn(chat: ChatFormat) -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert chat.render(messages).endswith("[|assistant|]\n<think>\n\n</think>\n\n")
    assert chat.render(messages, enable_thinking=True).endswith("[|assistant|]\n<think>\n")
    assert "<tool>" in chat.render(messages, tools=[TOOL]) and "<tool>" not in chat.render(messages)


def test_a_prompt_encodes_to_one_row(chat: ChatFormat) -> None:
    messages = [{"role": "user", "content": "hello"}]
    prompt = chat.encode(messages, enable_thinking=True)
    assert set(prompt) == {"input_ids", "attention_mask"} and prompt["input_ids"].shape[0] == 1
    assert chat.tokenizer.decode(prompt["input_ids"][0]) == chat.render(messages, enable_thinking=True)
    assert chat.tokenizer.padding_side == "left"


def test_the_template_alone_writes_special_tokens() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(TINY)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    assert tokenizer("hello").input_ids[0] == 1
    assert 1 not in ChatFormat(tokenizer).encode([{"role": "user", "content": "hello"}])["input_ids"]


def test_rows_are_padded_on_the_left(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).padding_side == "left"


def test_an_answer_goes_back_into_the_next_prompt(chat: ChatFormat) -> None:
    answer = parse_answer(f"on it\n{CALL}")
    messages = [{"role": "user", "content": "add"}, answer.to_message(), {"role": "tool", "content": "3"}]
    assert f"on it\n{CALL}[|endofturn|]" in chat.render(messages)


def test_decoding_leaves_the_end_of_the_turn_out(chat: ChatFormat) -> None:
    ids = chat.tokenizer.encode("hello[|endofturn|]", add_special_tokens=False)
    assert chat.decode(ids).content == chat.tokenizer.decode(ids[:-1])


@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("hello", False, Answer("hello")),
        ("a\n</think>\n\nhello", True, Answer("hello", "a")),
        ("<think>\na\n</think>\nhello", True, Answer("hello", "a")),
        ("<think>\na\n</think>\nhello", False, Answer("hello", "a")),
        ("cut off while thin", True, Answer("", "cut off while thin")),
        ("a</think>b</think>c", True, Answer("b</think>c", "a")),
        ("", True, Answer("", "")),
        (CALL, False, Answer("", None, (ADD,))),
        (f"why\n</think>\n\nsaid\n{CALL}\n{CALL}", True, Answer("said", "why", (ADD, ADD))),
        (f"{CALL}after", False, Answer("after", None, (ADD,))),
        ('<tool_call>\n{"name": "add", "arguments": "{\\"a\\": 1}"}\n</tool_call>', False, Answer("", None, (ADD,))),
        ('<tool_call>{"name": "now"}</tool_call>', False, Answer("", None, (ToolCall("now", {}),))),
        ('<tool_call>{"name": "now", "arguments": null}</tool_call>', False, Answer("", None, (ToolCall("now", {}),))),
        ('<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>', False, Answer("", None, (ADD,))),
        ('<tool_call>{"name": "add", "parameters": "{\\"a\\": 1}"}</tool_call>', False, Answer("", None, (ADD,))),
        ('<tool_call>{"id": "1", "name": "add", "arguments": {"a": 1}}</tool_call>', False, Answer("", None, (ADD,))),
        (
            '<tool_call>{"type": "function", "function": {"name": "add", "parameters": {"a": 1}}}</tool_call>',
            False,
            Answer("", None, (ADD,)),
        ),
        (
            '<tool_call>[{"name": "add", "arguments": {"a": 1}}, {"name": "now"}]</tool_call>',
            False,
            Answer("", None, (ADD, ToolCall("now", {}))),
        ),
        (f"first {CALL} then {CALL} done", False, Answer("first  then  done", None, (ADD, ADD))),
        (f"{CALL}</think>said", True, Answer("said", CALL)),
        (
            '<tool_call>{"name": "say", "arguments": {"text": "</tool_call>"}}</tool_call>',
            False,
            Answer("", None, (ToolCall("say", {"text": "</tool_call>"}),)),
        ),
    ],
)
def test_an_answer_taken_apart(text: str, thinking: bool, expected: Answer) -> None:
    assert parse_answer(text, reasoning=THINK if thinking else None) == expected


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "add", "argu',
        '<tool_call>{"name": "add", "arguments": {"a": 1}}',
        '<tool_call>{"name": "add", "arguments": {"a": 1}} and more</tool_call>',
        "<tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>add(1)</tool_call>",
        '<tool_call>["add"]</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "1"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": 1e999}}</tool_call>',
        '<tool_call>{"name": "add", "args": {"a": 1}}</tool_call>',
        '<tool_call>{"name": "add", "a": 1}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {}, "parameters": {"a": 1}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": 1}, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": 1, "a": 2}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": "\\ud83d"}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": ""}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": ' + "[" * 80 + "]" * 80 + "}}</tool_call>",
        '<tool_call>{"function": "add", "arguments": {"a": 1}}</tool_call>',
        '<tool_call>{"function": {"name": "add"}, "arguments": {"a": 1}}</tool_call>',
        '<tool_call>[{"name": "add", "arguments": {"a": 1}}, {"name": "add", "a": 1}]</tool_call>',
        "<tool_call>[]</tool_call>",
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_a_call_that_cannot_be_read_stays_text(text: str) -> None:
    assert parse_answer(text) == Answer(text)
    assert parse_answer(f"{text}\n{CALL}") == Answer(text, None, (ADD,))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a folder"):
        load_tokenizer("there/is/no/such")
    with pytest.raises(
        ArtifactError, match=r"has no tokenizer\.json, without which no text can be tokenized; copy that"
    ):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_a_template(chat: ChatFormat) -> None:
    tokenizer = load_tokenizer(TINY)
    tokenizer.chat_template = None
    with pytest.raises(ArtifactError, match="has no chat template"):
        ChatFormat(tokenizer)


TAGGED = [
    "Ones: 8 + 7.\n</think>\n\n85[|endofturn|]",
    "<think>\nhm\n</think>\n\n85[|endofturn|] and on",
    "cut off while thin",
    f"hm </think> said\n{CALL}\n{CALL}[|endofturn|]",
    f"hm {CALL} hm </think> 한국어 {CALL}",
    "<tool_result>3</tool_result> <tool> 85[PAD]",
    "no tags at all, and no end",
]


def special(folder: Path, tags: set[str]) -> Any:
    """The tiny checkpoint's tokenizer, with these tags as special tokens."""
    content = json.loads((TINY / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = token["special"] or token["content"] in tags
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)
    return load_tokenizer(folder)


@pytest.mark.parametrize("tags", [TAGS, {"<think>"}, {"</think>"}, {"<tool_call>"}, {"</tool_call>", "<think>"}])
@pytest.mark.parametrize("thinking", [False, True])
def test_an_answer_does_not_depend_on_which_tags_are_special(
    chat: ChatFormat, tags: set[str], thinking: bool, tmp_path: Path
) -> None:
    other = ChatFormat(special(tmp_path, tags))
    for text in TAGGED:
        ids = chat.tokenizer.encode(text, add_special_tokens=False)
        assert other.tokenizer.encode(text, add_special_tokens=False) == ids
        assert other.decode(ids, enable_thinking=thinking) == chat.decode(ids, enable_thinking=thinking)
        whole = text.replace("[|endofturn|]", "").replace("[PAD]", "")
        assert chat.decode(ids, enable_thinking=thinking) == parse_answer(whole, reasoning=THINK if thinking else None)
        for tokenizer in (chat.tokenizer, other.tokenizer):
            pieces = list(stream(Scripted(ids), tokenizer, {"input_ids": torch.tensor([[5]])}))
            assert "".join(pieces) == whole
        lean, parts = Tokenizer.open(tmp_path), AnswerStream(reasoning=THINK if thinking else None)
        said = TextStream(lean, left_out=left_out_of_answers(lean))
        for token in ids:
            parts.push(said.push(token))
        parts.push(said.finish())
        parts.finish()
        assert parts.answer == chat.decode(ids, enable_thinking=thinking)


class Double:
    """What `stream` asks of a model beside ``generate()``."""

    def new_cache(self) -> Any:
        return SimpleNamespace(cancel=lambda: None, cancellation=Cancellation())


class Scripted(Double):
    """Answers with given tokens."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def generate(self, input_ids: torch.Tensor, streamer: Any, **_options: Any) -> None:
        for token in (input_ids, *torch.tensor(self.ids)[:, None]):
            streamer.put(token)
        streamer.end()


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("caf\udce9", "holds the byte 0xe9, which is not UTF-8; convert it"),
        ("\ud83d", r"holds half of a surrogate pair, \\ud83d"),
    ],
)
def test_text_that_is_not_unicode_is_refused_by_type(chat: ChatFormat, text: str, flaw: str) -> None:
    tokenizer = chat.tokenizer
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize, lambda text: tokenizer(["fine", text])):
        with pytest.raises(PromptError, match=f"^the prompt {flaw}"):
            call(text)
    tool = {"type": "function", "function": {"name": text, "parameters": {}}}
    for content, tools in ((text, None), ("fine", [tool])):
        with pytest.raises(ChatTemplateError, match=f"^the chat {flaw}"):
            chat.encode([{"role": "user", "content": content}], tools=tools)


def test_a_nul_and_other_control_characters_are_text(chat: ChatFormat) -> None:
    text = "a\0b\x1b[0m\u200b"
    assert chat.tokenizer.decode(chat.tokenizer.encode(text, add_special_tokens=False)) == text


class Parrot(Double):
    """Answers with the same token, until it is stopped."""

    def __init__(self, token: int, count: int) -> None:
        self.token, self.count, self.said = token, count, 0
        self.thread: threading.Thread | None = None

    def generate(
        self, input_ids: torch.Tensor, streamer: Any, stopping_criteria: Any, past_key_values: Any, **options: Any
    ) -> None:
        self.thread = threading.current_thread()
        if options:
            raise PromptError("no.")
        streamer.put(input_ids)
        for _ in range(self.count):
            self.said += 1
            streamer.put(torch.tensor([self.token]))
            if stopping_criteria(input_ids, None).all():
                break
        streamer.end()


def test_a_stream_is_the_answer(chat: ChatFormat) -> None:
    ids = chat.tokenizer.encode("hello there", add_special_tokens=False)
    parrot = Parrot(ids[-1], 7)
    pieces = list(stream(parrot, chat.tokenizer, {"input_ids": torch.tensor([ids])}))
    assert "".join(pieces) == chat.tokenizer.decode(ids[-1:] * 7) and all(pieces)


def test_a_stream_that_is_left_stops_the_model(chat: ChatFormat) -> None:
    ids = chat.tokenizer.encode("\n", add_special_tokens=False)
    parrot = Parrot(ids[-1], 10**9)
    pieces = stream(parrot, chat.tokenizer, {"input_ids": torch.tensor([ids])})
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert parrot.thread is not None and not parrot.thread.is_alive()


def test_what_goes_wrong_is_raised_where_the_stream_is_read(chat: ChatFormat) -> None:
    with pytest.raises(PromptError, match="no"):
        list(stream(Parrot(3, 1), chat.tokenizer, {"input_ids": torch.tensor([[3]])}, max_new_tokens=1))
