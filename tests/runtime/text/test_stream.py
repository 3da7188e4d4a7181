"""A stream of tokens: whole characters, never changed, up to a stop string."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from exaone_export.errors import UnsupportedOptionError
from exaone_export.runtime.text.chat import AnswerDecoder, left_out_of_answers
from exaone_export.runtime.text.detokenizer import _Bytes, _Neighbours, _Whole, detokenizer_of
from exaone_export.runtime.text.stream import TextStream
from exaone_export.runtime.text.tokenizer import Tokenizer
from tests.conftest import TINY

CONTENT = json.loads((TINY / "tokenizer.json").read_bytes())
KOREAN = "한국어 문장과 👩‍👩‍👧 그림, 그리고 🇰🇷 e\u0301 ¿qué? \x00\n"


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return Tokenizer.open(TINY)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Tokenizer]:
    def make(**parts: Any) -> Tokenizer:
        (tmp_path / "tokenizer.json").write_text(json.dumps(CONTENT | parts))
        shutil.copy(TINY / "tokenizer_config.json", tmp_path)
        return Tokenizer.open(tmp_path)

    return make


def streamed(stream: TextStream, tokens: Sequence[int], rng: random.Random, most: int = 1) -> list[str]:
    """The pieces of tokens that come a few at a time."""
    pieces, at = [], 0
    while at < len(tokens):
        count = rng.randint(1, most)
        pieces.append(stream.push(tokens[at : at + count]))
        at += count
    return [*pieces, stream.finish()]


def check(tokenizer: Tokenizer, tokens: Sequence[int], rng: random.Random) -> None:
    whole = tokenizer.decode(tokens)
    for most in (1, 3):
        assert "".join(streamed(TextStream(tokenizer), tokens, rng, most)) == whole


def test_random_tokens_are_decoded_as_all_together(tiny: Tokenizer) -> None:
    rng = random.Random(0)
    assert isinstance(detokenizer_of(tiny), _Bytes)
    for _ in range(1500):
        check(tiny, [rng.randrange(len(tiny) + 2) for _ in range(rng.randint(0, 12))], rng)


def test_bytes_that_are_not_a_character_become_what_they_are_together(tiny: Tokenizer) -> None:
    rng = random.Random(1)
    single = [token for token in range(len(tiny)) if len(tiny.convert_ids_to_tokens(token) or "") == 1]
    assert len(single) == 256
    for _ in range(1500):
        check(tiny, rng.choices(single, k=rng.randint(1, 8)), rng)


def test_no_character_is_split_and_each_comes_at_once(tiny: Tokenizer) -> None:
    tokens = tiny.encode(KOREAN)
    assert len(tokens) > 40
    stream, text = TextStream(tiny), ""
    for count, token in enumerate(tokens, 1):
        text += stream.push(token)
        known = tiny.decode(tokens[:count])
        assert text == known.rstrip("\ufffd") and KOREAN.startswith(text)
    assert text == KOREAN and not stream.finish()


def test_what_is_cut_off_is_given_at_the_end(tiny: Tokenizer) -> None:
    tokens = tiny.encode("a한")[:-1]
    stream = TextStream(tiny)
    assert stream.push(tokens) == "a"
    assert stream.finish() == tiny.decode(tokens)[1:] == "\ufffd"


def test_added_tokens_are_text_or_bytes_as_the_library_takes_them(made: Callable[..., Tokenizer]) -> None:
    rng = random.Random(2)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    extra = [{"id": 843 + at, "content": text, **flags} for at, text in enumerate(["é", "한", "a b", "Ā", "🙂x", "Ġ"])]
    tokenizer = made(added_tokens=CONTENT["added_tokens"] + extra)
    for _ in range(500):
        check(tokenizer, [rng.choice((rng.randrange(843), rng.randrange(843, 849))) for _ in range(8)], rng)


VOCABULARY = [
    "<unk>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    "▁a",
    "a",
    "b",
    "▁▁",
    "한",
    "##x",
    ".",
    " ",
    "n't",
]
REPLACE = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
BYTES, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}


def strip(start: int) -> dict[str, Any]:
    return {"type": "Strip", "content": " ", "start": start, "stop": 0}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": list(steps)}


@pytest.mark.parametrize(
    ("decoder", "kind"),
    [
        (sequence(REPLACE, BYTES, FUSE, strip(1)), _Neighbours),
        (sequence(REPLACE, BYTES, FUSE), _Neighbours),
        (None, _Neighbours),
        ({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, _Neighbours),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, _Neighbours),
        (sequence(REPLACE, BYTES, FUSE, strip(3)), _Whole),
        (sequence(BYTES, FUSE, REPLACE), _Whole),
        (sequence(REPLACE | {"pattern": {"Regex": "^▁"}}, FUSE), _Whole),
        (sequence(CONTENT["decoder"], strip(1)), _Whole),
        ({"type": "BPEDecoder", "suffix": "</w>"}, _Whole),
        ({"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": True}, _Whole),
    ],
)
def test_other_decoders(decoder: dict[str, Any] | None, kind: type, made: Callable[..., Tokenizer]) -> None:
    rng = random.Random(3)
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>", "byte_fallback": True}
    tokenizer = made(model=model, pre_tokenizer=None, post_processor=None, added_tokens=[], decoder=decoder)
    assert type(detokenizer_of(tokenizer)) is kind
    character = [vocabulary[f"<0x{byte:02X}>"] for byte in "가".encode()]
    for _ in range(300):
        tokens = [
            rng.choice((rng.randrange(257), rng.randrange(257, len(tokenizer)))) for _ in range(rng.randint(0, 8))
        ]
        at = rng.randint(0, len(tokens))
        check(tokenizer, tokens[:at] + character * rng.randint(0, 2) + tokens[at:], rng)


@pytest.mark.parametrize(
    ("text", "stop", "before", "stopped"),
    [
        ("one two three", ["two"], "one ", "two"),
        ("one two three", ["three", "two"], "one ", "two"),
        ("one two three", "two", "one ", "two"),
        ("one two three", ["four"], "one two three", None),
        ("one two three", [], "one two three", None),
        ("one tw", ["two"], "one tw", None),
        ("aaab", ["aab"], "a", "aab"),
        ("xabc", ["abc", "b"], "xa", "b"),
        ("xabc", ["bc", "abc"], "x", "abc"),
        ("한국어 끝🙂 더", ["끝🙂"], "한국어 ", "끝🙂"),
        ("two", ["two"], "", "two"),
        ("", ["two"], "", None),
    ],
)
def test_a_stop_string_ends_the_text(
    text: str, stop: Sequence[str], before: str, stopped: str | None, tiny: Tokenizer
) -> None:
    rng = random.Random(4)
    tokens = tiny.encode(text)
    for most in (1, 2, 3, 100):
        stream = TextStream(tiny, stop=stop)
        assert "".join(streamed(stream, tokens, rng, most)) == before
        assert stream.stopped == stopped
        assert stopped is None or (stream.push(tokens), stream.finish()) == ("", "")


def test_only_what_may_be_a_stop_string_is_held_back(tiny: Tokenizer) -> None:
    stream = TextStream(tiny, stop=["one two", "twelve"])
    given = [stream.push(tiny.encode(piece)) for piece in ("so one", " t", "wi", "ce", " tw", "elv")]
    assert given == ["so ", "", "one twi", "ce", " ", ""] and stream.finish() == "twelv"


def test_random_stop_strings_do_not_depend_on_the_pieces(tiny: Tokenizer) -> None:
    rng = random.Random(5)
    for _ in range(800):
        text = "".join(rng.choices("ab한", k=rng.randint(0, 12)))
        stop = ["".join(rng.choices("ab한", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        ends = [(text.find(each) + len(each), text.find(each), each) for each in stop if each in text]
        tokens = tiny.encode(text)
        for most in (1, 4, 100):
            stream = TextStream(tiny, stop=stop)
            assert "".join(streamed(stream, tokens, rng, most)) == (text[: min(ends)[1]] if ends else text)
            assert stream.stopped == (min(ends)[2] if ends else None)


def test_an_empty_stop_string_is_refused(tiny: Tokenizer) -> None:
    for stop in ("", ["a", ""]):
        with pytest.raises(UnsupportedOptionError, match=r"^a stop string is empty; give at least one character"):
            TextStream(tiny, stop=stop)


def test_special_tokens_of_an_answer_are_left_out(tiny: Tokenizer) -> None:
    text = "<think>\nhm\n</think>\n\n85[PAD]한국[|endofturn|]"
    tokens = tiny.encode(text)
    pieces = streamed(TextStream(tiny, left_out=left_out_of_answers(tiny)), tokens, random.Random(6))
    assert "".join(pieces) == AnswerDecoder(tiny).decode(tokens) == "<think>\nhm\n</think>\n\n85한국"
