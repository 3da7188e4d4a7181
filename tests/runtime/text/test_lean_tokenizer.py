"""The tokenizer without transformers is the one with transformers, and neither leaves tokenizer.json."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from exaone_export.errors import ArtifactError, PromptError
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text import tokenizer as tokenizer_module
from exaone_export.runtime.text.tokenizer import Tokenizer, check_vocabulary, to_ids
from tests.conftest import TINY

TEXTS = (
    "",
    " ",
    "  \n\n\t a ",
    "한국어로 답해 줘. 값은 얼마예요?",
    "¿Cuánto cuesta? El niño comió piñas.",
    "def f(x):\n\treturn {'a': x ** 2}  # é e\u0301\n",
    "🙂 👩‍👩‍👧 \U0001f1f0\U0001f1f7 \u200b\x00\x1b",
    "[|user|]\nhi[|endofturn|]\n<think>a</think><tool_call>[BOS] [UNK]<extra> <image>",
)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(config: dict[str, Any] | None = None, older: dict[str, Any] | None = None, **content: Any) -> Path:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(TINY / name, tmp_path / name)
        for name, values in (("tokenizer.json", content), ("tokenizer_config.json", config or {})):
            path = tmp_path / name
            path.write_text(json.dumps(json.loads(path.read_text()) | values))
        if older is not None:
            (tmp_path / "tokenizer_config.json").unlink()
            (tmp_path / "special_tokens_map.json").write_text(json.dumps(older))
        return tmp_path

    return make


BOS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[BOS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"[BOS]": {"id": "[BOS]", "ids": [1], "tokens": ["[BOS]"]}},
}
PADDING = {
    "strategy": {"Fixed": 50},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<padding>",
}
TRUNCATION = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"config": {"additional_special_tokens": ["<extra>", "<think>"], "image_token": "<image>", "pad_token": None}},
        {"config": {"extra_special_tokens": {"image_token": "<image>", "b_token": "<extra>"}, "video_token": "<v>"}},
        {"config": {"eos_token": {"content": "[EOS]", "lstrip": True}, "cls_token": "<new>", "mask_token": "<new>"}},
        {"config": {"added_tokens_decoder": {"8": {"content": "[|endofturn|]", "lstrip": True, "special": True}}}},
        {"config": {"added_tokens_decoder": {"99": {"content": "<extra>"}, "3": {"content": "<v>", "special": True}}}},
        {"config": {"added_tokens_decoder": {"99": {"content": "<extra>"}}, "cls_token": "<extra>"}},
        {
            "older": {
                "eos_token": {"content": "[EOS]", "lstrip": False},
                "additional_special_tokens": ["[|tool|]", "<x>"],
            }
        },
        {"post_processor": BOS},
        {"padding": PADDING, "truncation": TRUNCATION},
        {"padding": PADDING, "older": {}},
        {"config": {"split_special_tokens": True}},
        {"normalizer": {"type": "NFC"}, "post_processor": None},
    ],
)
def test_it_is_the_tokenizer_of_transformers(folder: Callable[..., Path], parts: dict[str, Any]) -> None:
    path = folder(**parts)
    ours, theirs = Tokenizer.open(path), load_tokenizer(path)
    assert ours.special_tokens_map == theirs.special_tokens_map and len(ours) == len(theirs)
    assert {i: repr(t) for i, t in ours.added_tokens_decoder.items()} == {
        i: repr(t) for i, t in theirs.added_tokens_decoder.items()
    }
    assert ours.special_token_ids == {name: getattr(theirs, f"{name}_id") for name in ours.special_tokens_map}
    assert ours.chat_template == theirs.chat_template
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text)["input_ids"]
        plain = ours.encode(text, add_special_tokens=False)
        assert plain == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    for token in range(len(ours) + 1):
        assert ours.convert_ids_to_tokens(token) == theirs.convert_ids_to_tokens(token)
        assert ours.decode(token) == theirs.decode(token)
    assert not ours.notices


def test_text_comes_back(folder: Callable[..., Path]) -> None:
    ours = Tokenizer.open(folder())
    for text in TEXTS:
        assert ours.decode(ours.encode(text)) == text
    assert ours.special_token_ids["eos_token"] == ours.convert_tokens_to_ids("[|endofturn|]") == 8
    assert ours.convert_tokens_to_ids("no such token") is None


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer"])
@pytest.mark.parametrize("kind", ["tiny", "gpt2", "nfc"])
def test_a_notice_says_where_transformers_gives_other_tokens(folder: Callable[..., Path], name: str, kind: str) -> None:
    own = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {"tiny": {}, "gpt2": {"pre_tokenizer": own}, "nfc": {"normalizer": {"type": "NFC"}}}[kind]
    path = folder(config={"tokenizer_class": name, "unk_token": "[UNK]"}, **content)
    ours, theirs = Tokenizer.open(path), AutoTokenizer.from_pretrained(path)
    text = "Buy:\n\n- 2 apples\n- 31 pears, e\u0301 \u00e9 한국어's   x"
    if ours.encode(text) != theirs.encode(text):
        assert ours.notices == (
            f"{path / 'tokenizer_config.json'} names {name}, with which transformers may give other tokens than "
            f"tokenizer.json, whose tokens are used here.",
        )
    expected = not name.startswith("Llama") and (kind != "gpt2" or name.startswith("Qwen2"))
    assert bool(ours.notices) == expected


def test_a_notice_on_spaces_that_llama_writes_otherwise(folder: Callable[..., Path]) -> None:
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}
    path = folder(config={"tokenizer_class": "LlamaTokenizer"}, pre_tokenizer=spaces, decoder=spaces)
    assert "names LlamaTokenizer, with which transformers may give other tokens" in Tokenizer.open(path).notices[0]


def test_a_notice_says_that_no_spaces_are_removed(folder: Callable[..., Path]) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0, ".": 1}, "unk_token": "a"}
    words = {"model": model, "decoder": None, "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}}
    ours = Tokenizer.open(folder(config={"clean_up_tokenization_spaces": True}, **words))
    assert ours.decode(ours.encode("a .")) == "a ."
    assert "sets clean_up_tokenization_spaces, which is ignored: text is decoded as" in ours.notices[0]


def test_what_is_refused(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Tokenizer.open(folder())
    with pytest.raises(PromptError, match=r"^the prompt holds half of a surrogate pair"):
        ours.encode("\ud83d")
    monkeypatch.setattr(tokenizer_module, "MAX_TEXT_BYTES", 20)
    with pytest.raises(PromptError, match=r"^the prompt has 11 bytes in UTF-8, and at most 10 are encoded; shorten"):
        ours.encode("한국어ab")
    with pytest.raises(PromptError, match=r"^the prompt holds 'x', token 60 .* embeddings for 0 to 59: the token"):
        check_vocabulary(_Named(), [[3, 60]], 60)


class _Named:
    def convert_ids_to_tokens(self, _ids: int) -> str:
        return "x"


@pytest.mark.hostile
def test_a_panic_is_an_error_of_a_type(folder: Callable[..., Path]) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
    decoder = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": ""}
    ours = Tokenizer.open(folder(config={"cls_token": "x" * 40}, pre_tokenizer=split, decoder=decoder))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not work with the prompt \(Onig"):
        ours.encode("x" * 39)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not work with the answer \(Onig"):
        ours.decode(ours.special_token_ids["cls_token"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]},
            ["default", "rag"],
        ),
        ({"chat_template": "a"}, "a"),
        ({"chat_template": ""}, None),
        ({}, None),
    ],
)
def test_templates_of_the_config(folder: Callable[..., Path], config: dict[str, Any], expected: Any) -> None:
    path = folder(config=config)
    assert Tokenizer.open(path).chat_template == (TINY / "chat_template.jinja").read_text()
    (path / "chat_template.jinja").unlink()
    for tokenizer in (Tokenizer.open(path), load_tokenizer(path)):
        found = tokenizer.chat_template
        assert (sorted(found) if isinstance(found, dict) else found) == expected


@pytest.mark.parametrize("value", [3, [{"name": "default"}], [{"name": "a", "template": 3}], {"a": None}, [3]])
def test_a_template_that_is_not_a_text(folder: Callable[..., Path], value: Any) -> None:
    path = folder(config={"chat_template": value})
    (path / "chat_template.jinja").unlink()
    for opened in (Tokenizer.open, load_tokenizer):
        with pytest.raises(ArtifactError, match="holds no tokenizer that can be read"):
            opened(path)


def test_ids_of_any_shape() -> None:
    import numpy as np
    import torch

    for value in (
        [1, 2],
        (1, 2),
        [[1], [2]],
        np.array([[1, 2]]),
        torch.tensor([1, 2]),
        [torch.tensor([1]), np.int64(2)],
    ):
        assert to_ids(value) == [1, 2]
    assert to_ids(3) == to_ids(np.int32(3)) == to_ids(torch.tensor(3)) == [3]
