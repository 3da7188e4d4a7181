"""The OpenAI client and the chat page, against the real server on the trained checkpoint."""

import json
import re
import subprocess
import sys

import jsonschema
import pytest

from examples.demo import WEATHER
from tests.conftest import TINY

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Seoul", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}


@pytest.fixture(scope="module")
def address(export_artifact):
    folder = export_artifact(TINY, "ort-cpu", max_length=512)
    command = [sys.executable, "-m", "exaone_export", "serve", str(folder), "--port", "0", "--model-name", "tiny"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        told = ""
        for line in process.stdout:
            told += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail(told)
        yield found[0]
        process.terminate()


@pytest.fixture(scope="module")
def openai():
    """Imported where it is used: it takes a second, and every worker collects this file."""
    return pytest.importorskip("openai", reason="needs the openai client")


@pytest.fixture(scope="module")
def ask(address, openai):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)

    def asked(**options):
        messages = [{"role": "user", "content": "Hello"}]
        return client.chat.completions.create(model="tiny", messages=messages, max_tokens=80, **options).choices[0]

    return asked


def test_structured_output(ask):
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    jsonschema.validate(json.loads(ask(response_format=form).message.content), CITY)
    assert ask(extra_body={"structured_outputs": {"choice": ["no", "never"]}}).message.content in ("no", "never")
    assert re.fullmatch("[a-c]{3}", ask(extra_body={"structured_outputs": {"regex": "[a-c]{3}"}}).message.content)


def test_completions_are_held_to_a_form_too(address, openai):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    options = {"model": "tiny", "max_tokens": 80, "extra_body": {"structured_outputs": {"choice": ["no", "never"]}}}
    assert {each.text for each in client.completions.create(prompt=["Hello", "Hi"], **options).choices} <= {
        "no",
        "never",
    }
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    [found] = client.completions.create(**options | {"prompt": "Hi", "extra_body": {"response_format": form}}).choices
    jsonschema.validate(json.loads(found.text), CITY)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_tools_that_must_be_called(ask, choice):
    answer = ask(tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "weather"
    jsonschema.validate(json.loads(call.function.arguments), CITY)


@pytest.mark.hostile
def test_a_schema_that_cannot_be_used_is_refused_by_name(ask, openai):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}, "strict": True}}
    with pytest.raises(openai.BadRequestError, match=r'Unimplemented keys: .*"not') as caught:
        ask(response_format=form)
    assert caught.value.param == "response_format"
    with pytest.raises(openai.BadRequestError, match="exactly one of"):
        ask(extra_body={"structured_outputs": {}})


def test_the_chat_page_talks_to_the_server(address):
    from tests.runtime.serve.test_page import CHROMIUM, ask, keep

    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport={"width": 900, "height": 760})
        problems = []
        page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("h1:has-text('tiny')")
        page.click("text=Settings")
        page.fill("[name=tools]", json.dumps([WEATHER]))
        page.click("#done")
        ask(page, "What is the weather in Seoul?")
        keep(page, "chat-page-call")
        assert page.inner_text(".call").startswith('get_weather({"city": "Seoul"})')
        page.keyboard.type('{"degrees": 21}')
        page.keyboard.press("Enter")
        page.wait_for_selector(".assistant > .text:has-text('It is 21 degrees in Seoul.')")
        page.wait_for_selector("#status:has-text('tokens/s')")
        keep(page, "chat-page")
        assert problems == []
        browser.close()
