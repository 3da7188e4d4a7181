"""How much longer a ``tokenizer.json`` makes a text: a normalizer can multiply it until the memory is gone.

The tokenizers library has no limits of its own. What a file can make of a byte follows from its steps, so that a file
that could make too much of it is refused before it is loaded.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["MAX_GROWTH", "MAX_TEXT_BYTES", "TooLargeError", "growth_of"]

MAX_GROWTH = 64
"""Bytes that a byte of text may become; 2 where a tokenizer maps bytes to characters, as EXAONE's does."""

MAX_TEXT_BYTES = 16 << 20
"""Of a text in UTF-8, once a tokenizer has made it longer: twenty times the longest context."""

_MAX_TOKEN_CHARACTERS = 4096
_MAX_UNKNOWN_BYTES = 256
_MAX_SPECIAL_TOKENS = 1024  # Those that a template puts around a text.
_MAX_DEPTH = 8
_LISTS = ("normalizers", "pretokenizers", "decoders", "processors")

Step = Mapping[str, Any]


class TooLargeError(ValueError):
    """A step of a tokenizer has no bound, or one beyond the limits; carries the end of a sentence."""


def growth_of(content: Mapping[str, Any]) -> int:
    """The most bytes of UTF-8 that a tokenizer makes of one.

    Normal forms of Unicode and lower case count as 1: they make at most 11 bytes of one, however often they are used.

    Args:
        content: Of a ``tokenizer.json``.

    Raises:
        TooLargeError: They are more than `MAX_GROWTH`, a token is longer than 4096 characters, or a step is unknown.
    """
    _check_tokens(content)
    growth = 1
    for name in ("normalizer", "pre_tokenizer", "post_processor"):
        growth = _limited(growth * _growth(content.get(name), name), name)
    _limited(_growth(content.get("decoder"), "decoder"), "decoder")
    added = sum(len(_text(token.get("content")).encode(errors="replace")) for token in _dicts(content, "added_tokens"))
    if added * growth > MAX_TEXT_BYTES:  # Their own text is normalized when they are added.
        raise TooLargeError(f"added tokens of {added} bytes, and at most {MAX_TEXT_BYTES // growth} are taken")
    return growth


def _growth(step: Any, name: str, depth: int = 0) -> int:
    if step is None:
        return 1
    if not isinstance(step, dict) or depth > _MAX_DEPTH:
        raise TooLargeError(f"a {name} that cannot be read")
    if step.get("type") == "Sequence":
        growth = 1
        for key in _LISTS:
            for inner in step.get(key) or ():
                growth = _limited(growth * _growth(inner, name, depth + 1), name)
        return growth
    rule = _RULES.get(_text(step.get("type")))
    if rule is None:
        raise TooLargeError(f"a {name} of the type {step.get('type')!r:.40}, which is unknown")
    return rule if isinstance(rule, int) else rule(step)


def _limited(growth: int, name: str) -> int:
    if growth > MAX_GROWTH:
        raise TooLargeError(f"a {name} that makes a text {growth} times as long, and at most {MAX_GROWTH} may be")
    return growth


def _replace(step: Step) -> int:
    pattern, content = step.get("pattern"), _size(step.get("content"))
    found = _size(pattern.get("String")) if isinstance(pattern, dict) else 0
    return max(-(-content // found), 1) if found else 1 + 2 * content  # Before and behind a byte.


def _byte_level(step: Step) -> int:
    return 4 if step.get("add_prefix_space") else 2


def _prepend(step: Step) -> int:
    return 1 + _size(step.get("prepend"))


def _precompiled(step: Step) -> int:
    """The longest text that SentencePiece's map holds: what it makes of a character."""
    try:
        data = base64.b64decode(_text(step.get("precompiled_charsmap")), validate=True)
    except (binascii.Error, ValueError) as error:
        raise TooLargeError("a precompiled_charsmap that is not base64") from error
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max((len(text) for text in texts.split(b"\0")), default=1) or 1


def _template(step: Step) -> int:
    """How often a template repeats a text; the tokens that it adds must be few."""
    tokens = step.get("special_tokens") or {}
    if any(len(text) > _MAX_TOKEN_CHARACTERS for token in tokens.values() for text in token.get("tokens", ())):
        raise TooLargeError(f"a template with a token of more than {_MAX_TOKEN_CHARACTERS} characters")
    repeated = 1
    for name, texts in (("single", 1), ("pair", 2)):
        pieces = _dicts(step, name)
        repeated = max(repeated, -(-sum("Sequence" in piece for piece in pieces) // texts))
        used = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
        added = sum(len(tokens[token]["ids"]) for token in used)
        if added > _MAX_SPECIAL_TOKENS:
            raise TooLargeError(f"a template that adds {added} tokens, and at most {_MAX_SPECIAL_TOKENS} may be")
    return repeated


_RULES: dict[str, int | Callable[[Step], int]] = {
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "Strip", "StripAccents"), 1),
    **dict.fromkeys(("BertPreTokenizer", "CharDelimiterSplit", "Digits", "FixedLength", "Punctuation", "Split"), 1),
    **dict.fromkeys(("UnicodeScripts", "Whitespace", "WhitespaceSplit"), 1),
    **dict.fromkeys(("BertProcessing", "RobertaProcessing"), 1),
    **dict.fromkeys(("BPEDecoder", "ByteFallback", "CTC", "Fuse", "WordPiece"), 1),
    "BertNormalizer": 2,  # Spaces around every character of Chinese.
    "ByteLevel": _byte_level,
    "Metaspace": 4,
    "Precompiled": _precompiled,
    "Prepend": _prepend,
    "Replace": _replace,
    "TemplateProcessing": _template,
}


def _check_tokens(content: Mapping[str, Any]) -> None:
    """Every token of an encoding holds its text, so that a long name for the unknown is as good as a multiplier."""
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    vocabulary = model.get("vocab") or ()
    texts = [value for value in model.values() if isinstance(value, str)]
    texts += [piece if isinstance(piece, str) else _text(piece[0] if piece else "") for piece in vocabulary]
    texts += [_text(token.get("content")) for token in _dicts(content, "added_tokens")]
    longest = max(map(len, texts), default=0)
    if longest > _MAX_TOKEN_CHARACTERS:
        raise TooLargeError(f"a token of {longest} characters, and at most {_MAX_TOKEN_CHARACTERS} may be")
    if _size(model.get("unk_token")) > _MAX_UNKNOWN_BYTES:
        raise TooLargeError(f"an unk_token of more than {_MAX_UNKNOWN_BYTES} bytes")


def _dicts(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _size(value: Any) -> int:
    return len(_text(value).encode(errors="replace"))
