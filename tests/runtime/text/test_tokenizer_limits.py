"""A tokenizer is a program too: what it makes of a text has bounds, and its panics are errors of a type."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from exaone_export.errors import ArtifactError, PromptError
from exaone_export.runtime.mirror.text import tokenizer as mirror_tokenizer
from exaone_export.runtime.mirror.text.tokenizer import load_tokenizer
from exaone_export.runtime.text import tokenizer as tokenizer_module
from exaone_export.runtime.text.tokenizer_limits import MAX_GROWTH, TooLargeError, growth_of
from tests.conftest import TINY
from tests.watched import peak, reset_peak

pytestmark = pytest.mark.hostile

CONTENT = json.loads((TINY / "tokenizer.json").read_bytes())
TEXTS = ("a", "aaaa bbbb", "é", "한국어 \U0001f642", " ")


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def template(single: list[Any], tokens: dict[str, Any] | None = None) -> dict[str, Any]:
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens or {}}


TEXT_A = {"Sequence": {"id": "A", "type_id": 0}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}


def charsmap(text: bytes) -> str:
    return base64.b64encode((4).to_bytes(4, "little") + b"\0\0\0\0" + b"ab\0" + text + b"\0").decode()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(**parts: Any) -> Path:
        (tmp_path / "tokenizer.json").write_text(json.dumps(CONTENT | parts))
        shutil.copy(TINY / "tokenizer_config.json", tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize(
    "step",
    [
        None,
        {"type": "NFC"},
        {"type": "Lowercase"},
        {"type": "ByteLevel"},
        {"type": "Prepend", "prepend": "\u2581"},
        replace("a", "xyz"),
        replace("aa", "한"),
        replace("", "xy", "Regex"),
        replace(" {2,}", " ", "Regex"),
        sequence(replace("a", "bb"), replace("b", "cc"), {"type": "ByteLevel"}),
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": False},
    ],
)
def test_no_normalizer_makes_more_of_a_text_than_is_counted(step: dict[str, Any] | None) -> None:
    allowed = growth_of({"normalizer": step})
    made = Tokenizer.from_str(json.dumps(CONTENT | {"normalizer": step})).normalizer
    for text in TEXTS:
        found = text if made is None else made.normalize_str(text)
        assert len(found.encode()) <= allowed * len(text.encode())


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"normalizer": sequence(*[replace("a", "a" * 10)] * 10)}, "a normalizer that makes a text 100 times as long"),
        ({"normalizer": replace("", "a" * 100, "Regex")}, "a normalizer that makes a text 201 times as long"),
        ({"normalizer": sequence(*[{"type": "ByteLevel"}] * 30)}, "makes a text 128 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 99}}, "makes a text 100 times as long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap(b"x" * 70)}}, "70 times as long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "that is not base64"),
        ({"normalizer": replace("a", "b" * 60), "pre_tokenizer": BYTE_LEVEL}, "pre_tokenizer that makes a text 240"),
        ({"normalizer": {"type": "Invented"}}, "a normalizer of the type 'Invented', which is unknown"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 20}},
            "a pre_tokenizer that makes a text 256 times as long",
        ),
        ({"post_processor": template([TEXT_A] * 33)}, "post_processor that makes a text 66 times as long"),
        (
            {
                "post_processor": template(
                    [TEXT_A] + [{"SpecialToken": {"id": "x", "type_id": 0}}] * 200,
                    {"x": {"id": "x", "ids": [1] * 200, "tokens": ["x"] * 200}},
                )
            },
            "a template that adds 40000 tokens",
        ),
        ({"decoder": {"type": "Sequence", "decoders": [replace("a", "a" * 9)] * 9}}, "a decoder that makes a text 81"),
        ({"model": CONTENT["model"] | {"unk_token": "x" * 300}}, "an unk_token of more than 256 bytes"),
        ({"model": CONTENT["model"] | {"end_of_word_suffix": "x" * 5000}}, "a token of 5000 characters"),
        ({"added_tokens": [{"id": 1, "content": "x" * 5000}]}, "a token of 5000 characters"),
    ],
)
def test_what_multiplies_a_text_is_refused_before_it_is_loaded(
    folder: Callable[..., Path], parts: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_tokenizer, "TokenizersBackend", None)
    monkeypatch.setattr(tokenizer_module, "tokenizers", None)
    path = folder(**parts)
    for opened in (load_tokenizer, tokenizer_module.Tokenizer.open):
        with pytest.raises(ArtifactError) as caught:
            opened(path)
        assert sentence in str(caught.value)
        assert str(caught.value).endswith("; use the tokenizer.json of the published checkpoint.")


def test_added_tokens_are_counted_as_texts() -> None:
    tokens = [{"id": i, "content": f"{i:04000}"} for i in range(100)]
    assert growth_of({"added_tokens": tokens}) == 1
    with pytest.raises(TooLargeError, match="added tokens of 400000 bytes, and at most 262144 are taken"):
        growth_of({"added_tokens": tokens, "normalizer": replace("a", "a" * MAX_GROWTH)})


def test_the_published_kind_makes_at_most_two_bytes_of_one() -> None:
    assert growth_of(CONTENT | {"normalizer": {"type": "NFC"}}) == load_tokenizer(TINY).growth == 2


def test_a_text_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(TINY)
    monkeypatch.setattr(tokenizer_module, "MAX_TEXT_BYTES", 20)
    assert tokenizer("한국어a")["input_ids"]
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(
            PromptError, match=r"^the prompt has 11 bytes in UTF-8, and at most 10 are encoded; shorten"
        ):
            call("한국어ab")


def test_memory_stays_within_what_is_counted(folder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(folder(normalizer=replace("a", "a" * 30)))
    idle = reset_peak()
    assert len(tokenizer("a" * 1000)["input_ids"]) == 30_000
    assert peak() - idle < 64 << 20


PANICS = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}


def test_a_panic_in_a_text(folder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(folder(pre_tokenizer=PANICS))
    assert tokenizer("a")["input_ids"]
    for call in (tokenizer, tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(ArtifactError) as caught:
            call("x" * 40)
        assert "tokenizer.json does not work with the prompt (Onig: Regex search error" in str(caught.value)
        assert type(caught.value.__cause__).__name__ == "PanicException"


def test_a_panic_in_an_answer(folder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(folder(decoder=replace("(x+x+)+y", "", "Regex")))
    token = load_tokenizer(TINY).get_vocab()["x"]
    tokenizer.add_tokens(["x" * 40])
    assert tokenizer.decode([token]) == "x"
    with pytest.raises(ArtifactError, match=r"tokenizer\.json does not work with the answer \(Onig"):
        tokenizer.decode([len(tokenizer) - 1])


def test_an_expression_that_is_none(folder: Callable[..., Path]) -> None:
    with pytest.raises(ArtifactError, match=r"holds no tokenizer that can be read \(Oniguruma error"):
        load_tokenizer(folder(pre_tokenizer=PANICS | {"pattern": {"Regex": "(("}}))


def test_an_error_without_a_type(folder: Callable[..., Path]) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}
    tokenizer = load_tokenizer(folder(model=model, pre_tokenizer=None, added_tokens=[]))
    with pytest.raises(ArtifactError, match="does not work with the prompt"):
        tokenizer("b")


def test_what_a_caller_gets_wrong_is_not_the_file(folder: Callable[..., Path]) -> None:
    with pytest.raises((TypeError, ValueError)):
        load_tokenizer(folder())(3)
