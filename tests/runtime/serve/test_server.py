"""The server, driven by OpenAI's own client and by requests that no client sends."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.runtime.serve.conftest import KEY, metric, send

SUM = [{"role": "user", "content": "What is 27 + 45?"}]
CHAT = {"model": "tiny", "messages": SUM}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_a_chat_a_stream_and_its_usage(client: Any) -> None:
    whole = client.chat.completions.create(**CHAT)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("72", "stop")
    assert whole.usage.completion_tokens == 3
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].delta.content or "" for each in chunks if each.choices) == "72"
    assert chunks[-1].usage.completion_tokens == 3


_TURN = {"role": "assistant", "content": "Hi!", "refusal": None, "annotations": [], "audio": None, "tool_calls": []}
_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CLIENTS: dict[str, dict[str, Any]] = {
    "curl": {"messages": [{"role": "developer", "content": "Be helpful."}, {"role": "user", "content": "Hello!"}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello!"}], "name": "Mina"}]},
    "a past turn": {"messages": [*SUM, _TURN, *SUM]},
    "LangChain": {"temperature": 0.7, "n": 1, "parallel_tool_calls": True, "tools": [WEATHER], **_USAGE},
    "Open WebUI": {
        "temperature": 0.8,
        "max_tokens": 9,
        "seed": 1,
        "stop": ["###"],
        "metadata": {"chat": "1"},
        **_USAGE,
    },
    "vLLM": {"temperature": 0.8, "extra_body": {"top_k": -1, "min_p": 0, "repetition_penalty": 1}},
    "Agents SDK": {"store": False, "tool_choice": None, "response_format": None, "top_p": None, "verbosity": None},
    "others": {
        "user": "1",
        "service_tier": "auto",
        "max_completion_tokens": 9,
        "logprobs": False,
        "top_logprobs": 0,
        "modalities": ["text"],
        "reasoning_effort": "minimal",
        "prompt_cache_key": "1",
        "safety_identifier": "1",
        "frequency_penalty": 0,
        "logit_bias": None,
        "response_format": {"type": "text"},
    },
}


@pytest.mark.parametrize("name", CLIENTS)
def test_what_clients_send_is_taken(client: Any, name: str) -> None:
    found = client.chat.completions.create(**CHAT | {"max_tokens": None} | CLIENTS[name])
    assert not CLIENTS[name].get("stream") or "".join(part.model_dump_json() for part in found)


def test_reasoning_and_korean_come_whole(client: Any) -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    message = client.chat.completions.create(**CHAT, temperature=0, extra_body=thinking).choices[0].message
    assert message.content == "72" and message.reasoning_content
    hello = [{"role": "user", "content": "안녕하세요!"}]
    alone = client.chat.completions.create(model="tiny", messages=hello).choices[0].message.content
    pieces = client.chat.completions.create(model="tiny", messages=hello, stream=True)
    said = [each.choices[0].delta.content or "" for each in pieces]
    assert "".join(said) == alone and "\ufffd" not in alone


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called(client: Any, stream: bool) -> None:
    asked = [{"role": "user", "content": "What is the weather in Seoul?"}]
    found = client.chat.completions.create(model="tiny", messages=asked, tools=[WEATHER], stream=stream)
    if stream:
        choices = [each.choices[0] for each in found]
        [call] = [call for choice in choices for call in choice.delta.tool_calls or ()]
        reason = choices[-1].finish_reason
    else:
        [call], reason = found.choices[0].message.tool_calls, found.choices[0].finish_reason
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Seoul"})
    assert reason == "tool_calls"


def test_logprobs_n_and_stop(client: Any) -> None:
    found = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2, n=2, stop=["2"])
    assert [choice.message.content for choice in found.choices] == ["7", "7"]
    [seven, two] = found.choices[0].logprobs.content
    assert (seven.token, two.token, len(seven.top_logprobs)) == ("7", "2", 2)
    whole = client.completions.create(model="tiny", prompt=["Hello", "Hi"], max_tokens=3, logprobs=1)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.usage.completion_tokens == 6 == sum(len(each.logprobs.tokens) for each in whole.choices)


def test_log_probabilities_of_tokens_that_are_parts_of_characters(client: Any) -> None:
    """Their bytes come to the text, no two are one key, and offsets are those of the text."""
    asked, word = [{"role": "user", "content": "Hi"}], "안녕 é😀"
    more: Any = {"extra_body": {"structured_outputs": {"choice": [word]}}}
    found = client.chat.completions.create(model="tiny", messages=asked, logprobs=True, top_logprobs=9, **more)
    tokens = found.choices[0].logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == word and len(tokens) > len(word)
    assert any(token.token.startswith("\\x") for token in tokens)
    alone = client.completions.create(model="tiny", prompt="Hi", logprobs=9, max_tokens=30, **more).choices[0]
    streamed = list(
        client.completions.create(model="tiny", prompt="Hi", logprobs=9, max_tokens=30, stream=True, **more)
    )
    offsets = [at for chunk in streamed for at in chunk.choices[0].logprobs.text_offset]
    assert (
        alone.text == word
        and alone.logprobs.text_offset == offsets
        and all(len(each) == 9 for each in alone.logprobs.top_logprobs)
    )
    parts = dict[int, bytes]()
    for at, token in zip(offsets, alone.logprobs.tokens, strict=True):
        raw = token.removeprefix("bytes:").encode().decode("unicode_escape").encode("latin-1")
        parts[at] = parts.get(at, b"") + (raw if token.startswith("bytes:") else token.encode())
    for at, data in parts.items():
        assert word[at:].startswith(data.decode()), (at, data)


def test_a_refusal_names_its_field(client: Any) -> None:
    import openai

    chat, older, response = client.chat.completions.create, client.completions.create, client.responses.create
    long = "context_length_exceeded"

    def of(call: Any, says: str, **given: Any) -> tuple[str | None, str | None]:
        with pytest.raises(openai.BadRequestError) as caught:
            call(model="tiny", **given)
        assert str(caught.value.body["message"]).startswith(says), caught.value.body  # type: ignore[index]
        return caught.value.param, caught.value.code

    messages = CHAT["messages"]
    for name in ("max_tokens", "max_completion_tokens"):
        assert of(chat, f"{name} is 600, and", messages=messages, **{name: 600}) == (name, long)
    assert of(response, "max_output_tokens is 600", input="Hi", max_output_tokens=600) == ("max_output_tokens", long)
    assert of(older, "max_tokens is 600, and", prompt="Hi", max_tokens=600) == ("max_tokens", long)
    assert of(older, "prompt is empty", prompt="") == ("prompt", "invalid_value")
    assert of(older, "the prompt holds token 99999, and", prompt=[99999]) == ("prompt", "invalid_value")
    assert of(chat, "logit_bias names token 843", messages=messages, logit_bias={"843": 1})[0] == "logit_bias"


def test_answers_under_load_equal_those_alone(client: Any) -> None:
    chats = [[{"role": "user", "content": f"What is {11 + 3 * i} + {40 - i}?"}] for i in range(12)]

    def ask(messages: Any) -> str:
        answer: str = client.chat.completions.create(model="tiny", messages=messages, temperature=0)
        return answer.choices[0].message.content  # type: ignore[attr-defined,no-any-return]

    alone = [ask(chat) for chat in chats]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, chats)) == alone


def test_a_long_prompt_a_large_body_and_another_type_are_refused(address: str) -> None:
    long = json.dumps(CHAT | {"messages": [{"role": "user", "content": "Hello " * 3000}]}).encode()
    status, found = send(address, long)
    assert (status, found["error"]["code"]) == (400, "context_length_exceeded")
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    given = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "content-length": str(5 << 20)}
    connection.request("POST", "/v1/chat/completions", headers=given)
    assert connection.getresponse().status == 413
    connection.close()
    assert send(address, json.dumps(CHAT).encode(), **{"content-type": "text/plain"})[0] == 400


def test_a_slash_too_many_is_not_sent_elsewhere_and_head_is_answered(address: str) -> None:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    given = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions/", json.dumps(CHAT), given)
    response = connection.getresponse()
    assert response.status == 404 and response.headers.get("location") is None and response.read()
    for path, status in (("/health", 200), ("/", 200), ("/v1/models", 200), ("/v1/chat/completions", 405)):
        connection.request("HEAD", path, headers=given)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, b"") and int(response.headers["content-length"]) > 0


def test_answers_that_never_fit_are_not_told_to_come_again(client: Any) -> None:
    import openai

    with pytest.raises(openai.BadRequestError, match="asks for 69 answers, and the server has room for 68") as caught:
        client.completions.create(model="tiny", prompt=["Hi"] * 69, max_tokens=2)
    assert (caught.value.param, caught.value.code) == ("prompt", "too_many_answers")
    assert len(client.completions.create(model="tiny", prompt=["Hi"] * 34, n=2, max_tokens=1).choices) == 68


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_slots(address: str, stream: bool) -> None:
    body = CHAT | {"max_tokens": 400, "logit_bias": {"8": -100}, "stream": stream, "n": 4}
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    given = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    before = metric(address, "answer_tokens_total")
    connection.request("POST", "/v1/chat/completions", json.dumps(body), given)
    while not metric(address, "running"):
        time.sleep(0.01)
    connection.close()
    while metric(address, "running"):
        time.sleep(0.01)
    assert metric(address, "answer_tokens_total") - before < 4 * 400
    assert send(address, json.dumps(CHAT).encode())[1]["choices"][0]["message"]["content"] == "72"
