"""The answer to a prompt of ``/v1/completions``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...core.requests import Token
from ...text.tokenizer import Tokenizer
from ..answering import News
from .log_probabilities import completion_logprobs

__all__ = ["CompletionAnswer"]


class CompletionAnswer:
    """One choice.

    Args:
        index: Of the choice.
        tokenizer: The artifact's.
        wants_logprobs: Whether the request asks for log-probabilities.

    Attributes:
        tokens: That have come.
        finish_reason: As OpenAI names it; None while it goes on.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, *, wants_logprobs: bool) -> None:
        self._index, self._tokenizer, self._wants_logprobs = index, tokenizer, wants_logprobs
        self._text, self._tokens, self._offset = "", list[Token](), 0
        self.tokens = 0
        self.finish_reason: str | None = None

    def begin(self) -> Iterator[dict[str, Any]]:
        """Nothing."""
        yield from ()

    def take(self, news: News) -> Iterator[dict[str, Any]]:
        """What is new, as a chunk's choice."""
        self._text += news.text
        self.tokens += len(news.tokens)
        self.finish_reason = news.finish_reason
        logprobs = None
        if self._wants_logprobs:
            self._tokens += news.tokens
            logprobs, self._offset = completion_logprobs(self._tokenizer, news.tokens, self._offset)
        yield self._choice(news.text, logprobs)

    @property
    def whole(self) -> dict[str, Any]:
        """The choice, once it has ended."""
        logprobs = completion_logprobs(self._tokenizer, self._tokens, 0)[0] if self._wants_logprobs else None
        return self._choice(self._text, logprobs)

    def _choice(self, text: str, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": self.finish_reason}
