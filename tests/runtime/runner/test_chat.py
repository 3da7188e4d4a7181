"""`Chat`: turns that go on from the cache, reasoning that the template drops, tool calls, and what goes wrong."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from exaone_export.errors import ChatTemplateError, PromptError, ToolsError
from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.functions import ToolFunctions
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.text.answer import Piece, ToolCall
from tests.conftest import TINY
from tests.runtime.runner.test_runner import TOOLS


@pytest.fixture(scope="module")
def runners(export_artifact: Callable[..., Path]) -> Iterator[tuple[Runner, Runner]]:
    folder = export_artifact(TINY, "ort-cpu", max_length=2048)
    with Runner.open(folder, threads=1) as warm, Runner.open(folder, threads=1) as cold:
        yield warm, cold


def test_ten_turns_with_reasoning_equal_a_cold_prefill(runners: tuple[Runner, Runner]) -> None:
    warm, cold = runners
    chat, reused = Chat(warm, enable_thinking=True, max_new_tokens=120), []
    for turn in range(10):
        asked = f"What is {20 + turn} + {31 + 3 * turn}?"
        before = list(chat.messages)
        said = chat.send(asked)
        parts = list(said.parts())
        alone = Chat(cold, enable_thinking=True, max_new_tokens=120)
        alone.messages = before
        cold.engine._worker.slots.latest().clear()
        other = alone.send(asked)
        assert other.read() == said.answer and other.tokens == said.tokens, turn
        assert {part.kind for part in parts if isinstance(part, Piece)} <= {"thinking", "content"}
        assert "".join(p.text for p in parts if isinstance(p, Piece) and p.kind == "content") == said.answer.content
        reused.append(said.timings.reused / said.prompt_tokens)
        if not turn:
            assert said.answer.content == "51" and said.answer.thinking
    # The reasoning of past turns is left out of prompts, and everything before it is in the cache.
    assert reused[0] < 0.5 and all(share > 0.7 for share in reused[3:]), reused
    assert len(chat.messages) == 20 and chat.messages[1]["role"] == "assistant"


def test_a_tool_is_called_and_answered(runners: tuple[Runner, Runner]) -> None:
    chat = Chat(runners[0], tools=TOOLS, max_new_tokens=80)
    calls = [part for part in chat.send("What is the weather in Seoul?").parts() if isinstance(part, ToolCall)]
    assert [(call.name, dict(call.arguments)) for call in calls] == [("get_weather", {"city": "Seoul"})]
    assert chat.messages[-1]["tool_calls"][0]["function"]["name"] == "get_weather"
    turn = chat.send({"role": "tool", "content": "sunny"})
    assert turn.read().content and chat.messages[-2] == {"role": "tool", "content": "sunny"}


def test_a_turn_that_is_left_stays_as_far_as_it_came(runners: tuple[Runner, Runner]) -> None:
    chat = Chat(runners[0], enable_thinking=True, max_new_tokens=100)
    turn = chat.send("What is 38 + 47?")
    parts = turn.parts()
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert turn.finish_reason == "cancelled" and [m["role"] for m in chat.messages] == ["user", "assistant"]
    chat.enable_thinking = False
    other = Chat(runners[1], max_new_tokens=100)
    other.messages = list(chat.messages)
    assert chat.send("What is 38 + 47?").read() == other.send("What is 38 + 47?").read()
    assert list(turn.parts()) == []


def test_a_turn_that_was_not_read_is_read_before_the_next_one(runners: tuple[Runner, Runner]) -> None:
    """So the conversation is that of a chat whose turns are all read, in their order."""
    whole, unread, begun = (Chat(runners[0], max_new_tokens=40) for _ in range(3))
    wanted = [whole.send(text).read() for text in ("Who are you?", "What is 38 + 47?")]
    unread.send("Who are you?")
    first = begun.send("Who are you?")
    pieces = iter(first)
    said = next(pieces)
    assert [unread.send("What is 38 + 47?").read(), begun.send("What is 38 + 47?").read()] == [wanted[1]] * 2
    assert unread.messages == begun.messages == whole.messages
    assert first.answer == wanted[0] and wanted[0].content.startswith(said) and list(pieces) == []
    assert begun.messages == whole.messages, "it ends once"


def test_what_is_refused_leaves_the_conversation(runners: tuple[Runner, Runner]) -> None:
    chat = Chat(runners[0], system="Be brief.")
    before = list(chat.messages)
    with pytest.raises(PromptError, match="the artifact holds 2048"):
        chat.send("word " * 3000)
    with pytest.raises(ChatTemplateError):
        chat.send("half of a pair: \ud83d")
    assert chat.messages == before
    assert "".join(chat.send("What is 38 + 47?", max_new_tokens=30)) == chat.messages[-1]["content"]


def get_weather(city: str) -> dict[str, int]:
    """Weather of a city"""
    return {"degrees": 21} if city else {}


def test_what_is_refused_leaves_the_answer_before_it(runners: tuple[Runner, Runner]) -> None:
    """Also where that was not read yet."""
    chat = Chat(runners[0], max_new_tokens=10)
    first = chat.send("Who are you?")
    with pytest.raises(PromptError):
        list(chat.converse("word " * 3000))
    assert chat.messages == [{"role": "user", "content": "Who are you?"}, first.answer.to_message()]


def test_functions_are_read_when_they_are_set(runners: tuple[Runner, Runner]) -> None:
    chat = Chat(runners[0], tools=[get_weather])
    chat.encode("a")
    with patch.object(ToolFunctions, "__init__", side_effect=AssertionError):
        with_tools = chat.encode("a")
    other = types.FunctionType(get_weather.__code__, globals(), "get_weather")
    for tools, said in (
        ([get_weather, other], "two tools have the name 'get_weather'"),
        ([get_weather, *TOOLS], "tools has functions and schemas"),
    ):
        with pytest.raises(ToolsError, match=said):
            chat.tools = tools
        with pytest.raises(ToolsError, match=said):
            Chat(runners[0], tools=tools)
    assert chat.encode("a") == with_tools
    chat.tools = None
    assert len(chat.encode("a")) < len(with_tools)


def test_functions_answer_the_calls(runners: tuple[Runner, Runner]) -> None:
    chat = Chat(runners[0], tools=ToolFunctions({"get_weather": get_weather}), max_new_tokens=80)
    turns = list(chat.converse("What is the weather in Seoul?"))
    assert [len(turn.answer.tool_calls) for turn in turns] == [1, 0] and "21" in turns[-1].answer.content
    assert [message["role"] for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert chat.messages[2] == {"role": "tool", "content": '{"degrees":21}'}
    assert turns[1].timings.reused > turns[0].prompt_tokens - 10
    listed = Chat(runners[0], tools=[get_weather], max_new_tokens=80)
    again = [turn.read() for turn in listed.converse("What is the weather in Seoul?")]
    assert again == [turn.answer for turn in turns]


def test_calls_that_are_not_answered(runners: tuple[Runner, Runner]) -> None:
    """There were too many, the turn was cut, the answer was interrupted or does not fit, or nobody answers."""
    asked = "What is the weather in Seoul?"

    def interrupt(call: ToolCall) -> str:
        raise KeyboardInterrupt

    def begin() -> Chat:
        return Chat(runners[0], tools=TOOLS, max_new_tokens=80)

    chat = begin()
    assert len(list(chat.converse(asked, answer=lambda call: "sunny", max_rounds=0))) == 1
    assert chat.messages[-1] == {"role": "tool", "content": "not run: there were 0 rounds of calls already"}

    chat = begin()
    with pytest.raises(KeyboardInterrupt):
        list(chat.converse(asked, answer=interrupt))
    assert chat.messages[-1] == {"role": "tool", "content": "not run: an earlier call was interrupted"}

    chat = begin()
    with pytest.raises(PromptError):
        list(chat.converse(asked, answer=lambda call: "sunny " * 3000))
    assert chat.messages == []

    chat = begin()
    assert len(list(chat.converse(asked))) == 1 and chat.messages[-1]["tool_calls"]

    whole = begin().send(asked)
    whole.read()
    chat = Chat(runners[0], tools=TOOLS, max_new_tokens=len(whole.tokens) - 1)
    turns = list(chat.converse(asked, answer=interrupt))
    assert turns[0].finish_reason == "length" and turns[0].answer.tool_calls
    assert chat.messages[-1] == {"role": "tool", "content": "not run: the turn was cut off"}


def test_the_tokens_of_a_conversation_are_those_of_its_next_prompt(runners: tuple[Runner, Runner]) -> None:
    chat = Chat(runners[0], system="Be brief.", max_new_tokens=100)
    alone = Chat(runners[0], max_new_tokens=100)
    assert alone.count_tokens() == 0
    own = alone.send("What is 38 + 47?")
    own.read()
    for thinking in (True, False):
        chat.enable_thinking = thinking
        chat.send("What is 38 + 47?").read()
        chat.enable_thinking = False
        used = chat.count_tokens()
        turn = chat.send("What is 38 + 47?")
        turn.read()
        assert used + own.prompt_tokens == turn.prompt_tokens
        assert turn.timings.reused > 0
