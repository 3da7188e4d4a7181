"""``/v1/responses``, driven by OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

SUM = {"model": "tiny", "input": "What is 27 + 45?"}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": None,
}
ASKED = {"role": "user", "content": [{"type": "input_text", "text": "What is the weather in Seoul?"}]}


def test_a_response_and_its_stream_are_the_same(client: Any) -> None:
    whole = client.responses.create(**SUM, metadata={"a": "b"}, store=False)
    assert (whole.output_text, whole.status, whole.metadata) == ("72", "completed", {"a": "b"})
    assert whole.usage.output_tokens == 3 and whole.usage.total_tokens == 3 + whole.usage.input_tokens
    with client.responses.stream(**SUM) as stream:
        events = list(stream)
        last = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert last.output_text == "72" == "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert last.usage.output_tokens == 3
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    [one], [other] = whole.output, last.output
    assert (one.type, one.status, one.role, one.content[0].text) == (other.type, other.status, other.role, "72")


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_is_called_and_its_result_is_taken(client: Any, stream: bool) -> None:
    def ask(items: list[Any]) -> Any:
        if not stream:
            return client.responses.create(model="tiny", input=items, tools=[WEATHER])
        with client.responses.stream(model="tiny", input=items, tools=[WEATHER]) as found:
            told = [event for event in found if event.type == "response.function_call_arguments.done"]
            last = found.get_final_response()
        assert [event.item_id for event in told] == [each.id for each in last.output if each.type == "function_call"]
        return last

    items: list[Any] = [ASKED]
    found = ask(items)
    [call] = found.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Seoul"})
    items += [
        item.model_dump(exclude_unset=True, include={"type", "id", "call_id", "name", "arguments", "status"})
        for item in found.output
    ]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 21}'})
    assert "21" in ask(items).output_text


def test_reasoning_is_an_item_that_can_be_sent_back(client: Any) -> None:
    more: Any = {"reasoning": {"effort": "high"}, "temperature": 0}
    found = client.responses.create(**SUM, **more)
    reasoning, message = found.output
    assert (reasoning.type, message.type, found.output_text) == ("reasoning", "message", "72")
    assert 0 < found.usage.output_tokens_details.reasoning_tokens < found.usage.output_tokens
    with client.responses.stream(**SUM, **more) as stream:
        events = list(stream)
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert thought == reasoning.content[0].text
    again = [{"role": "user", "content": SUM["input"]}, *found.output, {"role": "user", "content": "What is 1 + 2?"}]
    assert client.responses.create(model="tiny", input=again, temperature=0).output_text


def test_a_schema_a_cut_and_log_probabilities(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Seoul", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "city", "schema": schema, "strict": True}}
    jsonschema.validate(json.loads(client.responses.create(**SUM, text=form).output_text), schema)
    cut = client.responses.create(model="tiny", input="Hello", max_output_tokens=1, top_logprobs=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    [told] = cut.output[0].content[0].logprobs
    assert told.token == cut.output_text and len(told.top_logprobs) == 2


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "x"}]}, "input[0].arguments"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "other"}, "tools": [WEATHER]}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"minimum": "x"}}}}, "text.format"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"input": "Hello " * 3000}, "input"),
    ],
)
@pytest.mark.hostile
def test_what_cannot_be_honoured_is_refused_by_name(client: Any, change: dict[str, Any], param: str) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**SUM | change)
    assert caught.value.param == param
    assert "messages" not in caught.value.message and "response_format" not in caught.value.message
