"""The answer to a chat: its parts, told apart while they come, as the objects of OpenAI's protocol."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from ...core.requests import Token
from ...text.answer import AnswerStream, Piece, ToolCall
from ...text.reasoning import Reasoning
from ...text.tokenizer import Tokenizer
from ..answering import News
from ..protocol.chat import ChatRequest
from .log_probabilities import chat_logprobs

__all__ = ["ChatAnswer"]

_NAMES = {"thinking": "reasoning_content", "content": "content"}


class ChatAnswer:
    """One choice.

    Args:
        index: Of the choice.
        request: What is answered.
        tokenizer: The artifact's.
        reasoning: The tags that the answer begins inside of, if any.

    Attributes:
        index: As given.
        tokens: That have come.
        finish_reason: As OpenAI names it; None while it goes on.
    """

    def __init__(self, index: int, request: ChatRequest, tokenizer: Tokenizer, reasoning: Reasoning | None) -> None:
        self.index, self._request, self._tokenizer = index, request, tokenizer
        tools = [tool.for_template() for tool in request.offered]
        self._stream = AnswerStream(reasoning=reasoning, takes_calls=bool(tools), tools=tools)
        self._calls, self._texts = list[dict[str, Any]](), dict[str, str]()
        self._one_call = request.parallel_tool_calls is False
        self._logprobs, self._untold = list[dict[str, Any]](), list[Token]()
        self.tokens = 0
        self.finish_reason: str | None = None

    def begin(self) -> Iterator[dict[str, Any]]:
        """The choice of the first chunk, which tells the role."""
        yield {"index": self.index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}

    def take(self, news: News) -> Iterator[dict[str, Any]]:
        """What is new as a chunk's choices; none behind a call that is to be the only one."""
        if self.finish_reason is not None:
            return
        self.tokens += len(news.tokens)
        self._untold += news.tokens
        parts = self._stream.push(news.text)
        if news.finish_reason is not None:
            parts += self._stream.finish()
        for part in parts:
            yield self._choice(self._delta(part))
            if isinstance(part, ToolCall) and self._one_call:
                yield self._finish("tool_calls")
                return
        if news.finish_reason is not None:
            yield self._finish("tool_calls" if self._calls and news.finish_reason == "stop" else news.finish_reason)

    @property
    def whole(self) -> dict[str, Any]:
        """The choice, once it has ended."""
        message: dict[str, Any] = {"role": "assistant", "content": self._texts.get("content"), "refusal": None}
        if message["content"] is None and not self._calls:
            message["content"] = ""
        if "reasoning_content" in self._texts:
            message["reasoning_content"] = self._texts["reasoning_content"]
        if self._calls:
            message["tool_calls"] = self._calls
        logprobs = {"content": self._logprobs, "refusal": None} if self._request.logprobs else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": self.finish_reason}

    def _delta(self, part: Piece | ToolCall) -> dict[str, Any]:
        if isinstance(part, Piece):
            name = _NAMES[part.kind]
            self._texts[name] = self._texts.get(name, "") + part.text
            return {name: part.text}
        arguments = json.dumps(dict(part.arguments), ensure_ascii=False)
        call = {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": part.name, "arguments": arguments},
        }
        self._calls.append(call)
        return {"tool_calls": [{"index": len(self._calls) - 1, **call}]}

    def _finish(self, reason: str) -> dict[str, Any]:
        self.finish_reason = reason
        return self._choice({})

    def _choice(self, delta: dict[str, Any]) -> dict[str, Any]:
        logprobs = None
        if self._request.logprobs:
            told, self._untold = chat_logprobs(self._tokenizer, self._untold), []
            self._logprobs += told
            logprobs = {"content": told, "refusal": None}
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": self.finish_reason}
