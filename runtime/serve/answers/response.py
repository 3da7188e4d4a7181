"""The answer of ``/v1/responses``: its items, told apart while they come, and the events that tell of them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from ...core.requests import Token
from ...text.answer import AnswerStream, Piece, ToolCall
from ...text.reasoning import Reasoning
from ...text.tokenizer import Tokenizer
from ..answering import News
from ..errors import ApiError
from ..protocol.chat import ChatRequest
from ..protocol.responses import ResponseRequest
from .log_probabilities import chat_logprobs
from .writer import Event, Usage

__all__ = ["ResponseAnswer"]

_KINDS = {"thinking": ("reasoning", "rs", "reasoning_text"), "content": ("message", "msg", "output_text")}
"""Of a piece: its item's type, the beginning of its id, and the type of its part and its events."""

_ECHOED = ("instructions", "max_output_tokens", "max_tool_calls", "metadata", "temperature", "top_p", "user")


class ResponseAnswer:
    """One response.

    Args:
        request: What is answered.
        chat: The chat that it is the same as.
        tokenizer: The artifact's.
        reasoning: The tags that the answer begins inside of, if any.

    Attributes:
        status: As OpenAI names it.
    """

    def __init__(
        self, request: ResponseRequest, chat: ChatRequest, tokenizer: Tokenizer, reasoning: Reasoning | None
    ) -> None:
        self._request, self._chat, self._tokenizer, self._reasons = request, chat, tokenizer, reasoning is not None
        tools = [tool.for_template() for tool in chat.offered]
        self._stream = AnswerStream(reasoning=reasoning, takes_calls=bool(tools), tools=tools)
        self._items, self._untold = list[dict[str, Any]](), list[Token]()
        self._kind: str | None = None  # of the item that goes on
        self._id, self._created, self._count = f"resp_{uuid.uuid4().hex}", int(time.time()), 0
        self._reasoning_tokens, self._tokens = 0, 0
        self.status = "in_progress"

    @property
    def tokens(self) -> Sequence[int]:
        """How many have come, of the one answer."""
        return [self._tokens]

    def begin(self) -> Iterator[Event]:
        """The events before the first token."""
        yield self._event("response.created", response=self.whole())
        yield self._event("response.in_progress", response=self.whole())

    def take(self, news: News) -> Iterator[Event]:
        """The events of what is new; none behind a call that is to be the only one."""
        if self.status != "in_progress":
            return
        self._tokens += len(news.tokens)
        self._untold += news.tokens
        parts = self._stream.push(news.text)
        if news.finish_reason is not None:
            parts += self._stream.finish()
        if self._reasons and self._kind in (None, "thinking") and not any(map(_is_answer, parts)):
            self._reasoning_tokens += len(news.tokens)
        for part in parts:
            if isinstance(part, Piece):
                yield from self._say(part)
                continue
            yield from self._call(part)
            if self._chat.parallel_tool_calls is False:
                self.status = "completed"
                return
        if news.finish_reason is not None:
            self.status = "incomplete" if news.finish_reason == "length" else "completed"
            yield from self._close()

    def has_ended(self, _index: int) -> bool:
        """Whether nothing further is wanted."""
        return self.status != "in_progress"

    def end(self, usage: Usage) -> Iterator[Event]:
        """The last event."""
        yield self._event(f"response.{self.status}", response=self.whole(usage))

    def fail(self, error: ApiError) -> Event:
        """The last event, where there is no whole answer."""
        self.status = "failed"
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        told = {**self.whole(), "error": {"code": code, "message": error.message}}
        return self._event("response.failed", response=told)

    def whole(self, usage: Usage | None = None) -> dict[str, Any]:
        """The response as far as it is there.

        Args:
            usage: As a chat tells it, once it has ended.
        """
        asked = self._request.model_dump(by_alias=True, exclude_none=True)
        reason = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": self.status,
            "completed_at": int(time.time()) if self.status == "completed" else None,
            "error": None,
            "incomplete_details": reason,
            "model": self._request.model,
            "output": list(self._items),
            "background": False,
            "parallel_tool_calls": self._chat.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": self._chat.reasoning_effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "text": {"format": {"type": "text"}, **asked.get("text", {})},
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": [{"parameters": None, "strict": False, **tool} for tool in asked.get("tools", ())],
            "top_logprobs": self._request.top_logprobs or 0,
            "truncation": "disabled",
            "usage": None if usage is None else self._usage(usage),
            **{name: asked.get(name) for name in _ECHOED},
        }

    def _usage(self, chat: Usage) -> dict[str, Any]:
        cached = chat["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": chat["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": chat["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": chat["total_tokens"],
        }

    def _say(self, piece: Piece) -> Iterator[Event]:
        kind, prefix, part = _KINDS[piece.kind]
        if self._kind != piece.kind:
            yield from self._close()
            item: dict[str, Any] = {"id": f"{prefix}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress"}
            more: dict[str, Any] = {"summary": []} if kind == "reasoning" else {"role": "assistant"}
            item |= more
            yield self._event("response.output_item.added", item={**item, "content": []}, ended=True)
            self._items.append({**item, "content": [_part(part)]})
            self._kind = piece.kind
            yield self._event("response.content_part.added", content_index=0, part=_part(part), of_item=True)
        content = self._items[-1]["content"][0]
        content["text"] += piece.text
        told: dict[str, Any] = {}
        if kind == "message":
            told = {"logprobs": self._logprobs()}
            content["logprobs"] += told["logprobs"]
        self._untold = []
        yield self._event(f"response.{part}.delta", content_index=0, delta=piece.text, of_item=True, **told)

    def _call(self, call: ToolCall) -> Iterator[Event]:
        yield from self._close()
        self._untold = []  # a call has no log-probabilities
        arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
        item = {
            "id": f"fc_{uuid.uuid4().hex}",
            "type": "function_call",
            "call_id": f"call_{uuid.uuid4().hex[:24]}",
            "name": call.name,
        }
        yield self._event(
            "response.output_item.added", item={**item, "arguments": "", "status": "in_progress"}, ended=True
        )
        self._items.append({**item, "arguments": arguments, "status": "completed"})
        yield self._event("response.function_call_arguments.delta", delta=arguments, of_item=True)
        yield self._event("response.function_call_arguments.done", arguments=arguments, name=call.name, of_item=True)
        yield self._event("response.output_item.done", item=self._items[-1])

    def _close(self) -> Iterator[Event]:
        """End the item that goes on."""
        if self._kind is None:
            return
        part, self._kind = _KINDS[self._kind][2], None
        item = self._items[-1]
        item["status"] = "incomplete" if self.status == "incomplete" else "completed"
        content = item["content"][0]
        told = {"logprobs": content["logprobs"]} if "logprobs" in content else {}
        yield self._event(f"response.{part}.done", content_index=0, text=content["text"], of_item=True, **told)
        yield self._event("response.content_part.done", content_index=0, part=dict(content), of_item=True)
        yield self._event("response.output_item.done", item=dict(item))

    def _logprobs(self) -> list[dict[str, Any]]:
        return chat_logprobs(self._tokenizer, self._untold) if self._chat.logprobs else []

    def _event(self, kind: str, *, of_item: bool = False, ended: bool = False, **values: Any) -> Event:
        event: dict[str, Any] = {"type": kind, "sequence_number": self._count, **values}
        self._count += 1
        if of_item or "item" in values:
            event["output_index"] = len(self._items) - (not ended)
        if of_item:
            event["item_id"] = self._items[-1]["id"]
        return event


def _part(kind: str) -> dict[str, Any]:
    more: dict[str, Any] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {"type": kind, "text": "", **more}


def _is_answer(part: Piece | ToolCall) -> bool:
    return isinstance(part, ToolCall) or part.kind == "content"
