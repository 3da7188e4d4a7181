"""Tokens to text, one at a time: a piece is given once nothing that follows can change it.

Joined, the pieces are what the tokenizer decodes of all tokens together. What has to be waited for follows from the
decoder of ``tokenizer.json``: the bytes of a character, the end of a run of byte tokens, or, where a decoder looks
further, the end of all.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Any, Protocol

from .tokenizer import Tokenizer

__all__ = ["Detokenizer", "detokenizer_of", "token_bytes"]

_LISTED = "decoders"
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class Detokenizer(Protocol):
    """Decodes one sequence of tokens."""

    def push(self, token: int) -> str:
        """Take a token, and return the text that is known by now."""

    def finish(self) -> str:
        """Return the rest; no token follows."""


def detokenizer_of(tokenizer: Tokenizer) -> Detokenizer:
    """A detokenizer for one sequence, the quickest that is exact with the tokenizer's decoder."""
    if (tokenizer.decoder or {}).get("type") == "ByteLevel":
        return _Bytes(tokenizer)
    return _Neighbours(tokenizer) if _is_local(tokenizer.decoder) else _Whole(tokenizer)


def _is_local(decoder: Mapping[str, Any] | None) -> bool:
    """Whether a token's text depends on no other token, but on which is the first and on byte tokens beside it."""
    if decoder is None:
        return True
    steps = decoder.get(_LISTED, []) if decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") for step in steps]
    if kinds in (["Metaspace"], ["WordPiece"], ["ByteFallback"], ["Fuse"]):
        return True
    if set(kinds) - {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return False
    fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    # A replacement in the fused text may span tokens, and one by an expression may look at a token's ends.
    replaced = all(
        at < fused and "String" in step["pattern"] for at, step in enumerate(steps) if kinds[at] == "Replace"
    )
    # More than one stripped character could be that of a token and of the next.
    return replaced and not any(step.get("stop") or step.get("start", 0) > 1 for step in steps)


class _Bytes:
    """With a byte-level decoder: a character is given once its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token = tokenizer.convert_ids_to_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(_byte_level(self._token(token) or ""))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Neighbours:
    """With a local decoder: a token is decoded behind the one before it, byte tokens with the one that ends them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._before, self._run = list[int](), list[int]()

    def push(self, token: int) -> str:
        self._run.append(token)
        text = self._tokenizer.convert_ids_to_tokens(token)
        is_byte = text is not None and len(text) == len("<0x00>") and text.startswith("<0x")
        return "" if text is None or is_byte else self.finish()

    def finish(self) -> str:
        before = self._tokenizer.decode(self._before)
        text = self._tokenizer.decode(self._before + self._run)[len(before) :]
        # Where the tokens before have no text, such as a stripped space, they still are not the first ones.
        self._before = self._run if text else self._before + self._run
        self._run = []
        return text


class _Whole:
    """With any other decoder: the text is given at the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._tokens = tokenizer, list[int]()

    def push(self, token: int) -> str:
        self._tokens.append(token)
        return ""

    def finish(self) -> str:
        return self._tokenizer.decode(self._tokens)


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token stands for by itself, which may be a part of a character."""
    text = tokenizer.convert_ids_to_tokens(token) or ""
    if (tokenizer.decoder or {}).get("type") == "ByteLevel":
        return _byte_level(text)
    if _BYTE_TOKEN.fullmatch(text):
        return bytes([int(text[1:-1], 16)])
    return tokenizer.decode([token]).encode()


def _byte_level(text: str) -> bytes:
    try:
        return bytes(map(_BYTES.__getitem__, text))
    except KeyError:  # an added token, which is written as it is
        return text.encode()


def _bytes_of_characters() -> dict[str, int]:
    """The characters that a byte-level tokenizer writes for bytes: GPT-2's, themselves where they can be printed."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + at): byte for at, byte in enumerate(others)}


_BYTES = _bytes_of_characters()
