"""One message of the user and what comes of it: the model's turns, its tool calls, and the line about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.turn import Turn
from exaone_export.runtime.text.answer import Piece, ToolCall

from .interrupts import Interrupts
from .shown import Screen

__all__ = ["Exchange", "run_exchange"]


@dataclass
class Exchange:
    """What came of a message.

    Attributes:
        max_length: Tokens that a conversation may have.
        turns: Of the model.
        results: Of the calls that were answered, in order.
        used: Tokens of the conversation after it.
        interrupted: Whether the user ended it.
    """

    max_length: int
    turns: list[Turn] = field(default_factory=list)
    results: list[tuple[ToolCall, str]] = field(default_factory=list)
    used: int = 0
    interrupted: bool = False

    @property
    def left(self) -> int:
        """Tokens that the conversation may still have."""
        return max(self.max_length - self.used, 0)

    @property
    def num_tokens(self) -> int:
        """Of all turns."""
        return sum(len(turn.tokens) for turn in self.turns)

    @property
    def rate(self) -> float | None:
        """Tokens per second, of those behind the first one of every turn."""
        rates = [(len(turn.tokens) - 1, turn.timings.tokens_per_second(len(turn.tokens))) for turn in self.turns]
        timed = [(number, rate) for number, rate in rates if rate]
        return sum(number for number, _ in timed) / sum(number / rate for number, rate in timed) if timed else None

    @property
    def why(self) -> str:
        """What ended it."""
        last = self.turns[-1]
        if self.interrupted or last.finish_reason == "cancelled":
            return "interrupted"
        if last.stopped is not None:
            return "stop string"
        if last.finish_reason == "length":
            return "context full" if self._is_full else "token limit"
        return "end of turn"

    @property
    def advice(self) -> str | None:
        """What to do about an answer that was cut, or None."""
        if self.turns[-1].finish_reason != "length":
            return None
        if self._is_full:
            return (
                f"the answer was cut off, because the artifact holds {self.max_length:,} tokens; make room with /undo "
                f"or /reset, or export with a larger --max-length."
            )
        return (
            f"the answer was cut off at its limit of {len(self.turns[-1].tokens):,} tokens; start with a larger "
            f"--max-new-tokens, or ask the model to continue."
        )

    @property
    def _is_full(self) -> bool:
        last = self.turns[-1]
        return last.prompt_tokens + len(last.tokens) >= self.max_length

    def to_text(self) -> str:
        """The line about it."""
        first, last = self.turns[0].timings.time_to_first_token, self.turns[-1]
        facts = [f"{self.num_tokens:,} tokens" if self.num_tokens != 1 else "1 token"]
        facts += [] if self.rate is None else [f"{self.rate:.1f}/s"]
        facts += [] if first is None else [f"first after {first:.2f} s"]
        facts += [f"{last.timings.reused:,} reused", f"{self.left:,} left", self.why]
        return ", ".join(facts)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        first, last, rate = self.turns[0].timings.time_to_first_token, self.turns[-1], self.rate
        end = last.timings.last_token
        return {
            "content": last.answer.content,
            "thinking": last.answer.thinking,
            "tool_calls": [
                {"name": call.name, "arguments": dict(call.arguments), "result": result}
                for call, result in self.results
            ],
            "prompt_tokens": last.prompt_tokens,
            "reused_tokens": last.timings.reused,
            "generated_tokens": self.num_tokens,
            "context_left": self.left,
            "finish_reason": last.finish_reason,
            "timings": {
                "first_token_seconds": None if first is None else round(first, 4),
                "tokens_per_second": None if rate is None else round(rate, 2),
                "seconds": None if end is None else round(end - self.turns[0].timings.submitted, 4),
            },
        }


def run_exchange(
    chat: Chat,
    message: str,
    screen: Screen,
    *,
    max_length: int,
    answer: Callable[[ToolCall], str],
    interrupts: Interrupts,
    **options: Any,
) -> Exchange:
    """Send a message, and show what comes of it until the model has no further tool call.

    Args:
        chat: The conversation.
        message: Of the user.
        screen: Shows it.
        max_length: Tokens that a conversation may have.
        answer: Gives a tool call's result.
        interrupts: Entered by the caller.
        options: Of `Chat.send`.
    """
    done = Exchange(max_length)

    def answer_and_show(call: ToolCall) -> str:
        with interrupts.raising():
            result = answer(call)
        done.results.append((call, result))
        screen.result(call, result)
        return result

    screen.begin_turn()
    try:
        for turn in chat.converse(message, answer=answer_and_show, progress=screen.show_progress, **options):
            done.turns.append(turn)
            interrupts.watch(turn)
            _show(turn, screen)
            screen.begin_turn()
    except KeyboardInterrupt:
        done.interrupted = True
    screen.end_answer()
    if (last := chat.messages[-1])["role"] == "tool":
        screen.note(last["content"])
    done.used = chat.count_tokens()
    return done


def _show(turn: Turn, screen: Screen) -> None:
    thinking = 0
    for part in turn.parts():
        if isinstance(part, Piece) and part.kind == "thinking":
            thinking = len(turn.tokens)
            screen.think(part.text, thinking)
            continue
        screen.end_thinking(thinking)
        if isinstance(part, ToolCall):
            screen.call(part)
        else:
            screen.say(part.text)
    screen.end_thinking(thinking)
