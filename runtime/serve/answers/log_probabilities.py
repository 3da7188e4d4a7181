"""Log-probabilities of an answer's tokens, as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.requests import Token
from ...text.detokenizer import token_bytes
from ...text.tokenizer import Tokenizer

__all__ = ["chat_logprobs", "completion_logprobs"]


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """An object a token; all tokens of the answer count, those of its reasoning and its end too."""
    found = []
    for token in tokens:
        assert token.logprobs is not None
        top = [_entry(tokenizer, index, logprob) for index, logprob in token.logprobs.top]
        found.append({**_entry(tokenizer, token.id, token.logprobs.chosen), "top_logprobs": top})
    return found


def completion_logprobs(tokenizer: Tokenizer, tokens: Sequence[Token], offset: int) -> tuple[dict[str, Any], int]:
    """The older form, of four lists; and the offset behind the tokens' texts.

    A token that is a part of a character is written as ``bytes:`` and its bytes, as OpenAI does: two of them would
    otherwise be one key. Its offset is that of the character.

    Args:
        tokenizer: The artifact's.
        tokens: Of the answer.
        offset: Characters of the tokens before.
    """
    offsets = []
    for token in tokens:
        begins = [byte & 0xC0 != 0x80 for byte in token_bytes(tokenizer, token.id)]  # a character
        offsets.append(max(offset - (begins[:1] == [False]), 0))
        offset += sum(begins)
    texts = [_older(tokenizer, token.id) for token in tokens]
    logprobs = [token.logprobs for token in tokens if token.logprobs is not None]
    top = [{_older(tokenizer, index): logprob for index, logprob in each.top} for each in logprobs]
    chosen = [each.chosen for each in logprobs]
    return {"tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets}, offset


def _entry(tokenizer: Tokenizer, index: int, logprob: float) -> dict[str, Any]:
    data = token_bytes(tokenizer, index)
    return {"token": _written(data), "logprob": logprob, "bytes": list(data)}


def _written(data: bytes) -> str:
    """A token's text, with the bytes escaped that are a part of a character, as OpenAI writes it."""
    return data.decode(errors="backslashreplace")


def _older(tokenizer: Tokenizer, index: int) -> str:
    data = token_bytes(tokenizer, index)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
