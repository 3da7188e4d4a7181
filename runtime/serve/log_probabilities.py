"""Log-probabilities of an answer's tokens, as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.requests import Token
from ..text.tokenizer import Tokenizer

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

    Args:
        tokenizer: The artifact's.
        tokens: Of the answer.
        offset: Characters of the tokens before.
    """
    texts = [tokenizer.decode([token.id]) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    logprobs = [token.logprobs for token in tokens if token.logprobs is not None]
    top = [{tokenizer.decode([index]): logprob for index, logprob in each.top} for each in logprobs]
    chosen = [each.chosen for each in logprobs]
    return {"tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets}, offset


def _entry(tokenizer: Tokenizer, index: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([index])
    # A token that is a part of a character has no text of its own.
    return {"token": text, "logprob": logprob, "bytes": None if "�" in text else list(text.encode())}
