"""The chat page in headless Chromium, against a server that answers from a script."""

import json
import os
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "runtime" / "serve" / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
TEXT = "서울은 **맑고** 21 °C예요.\n\n```python\nprint('<b>hi</b>')\n```\nUse `curl` & <img src=x onerror=alert(1)>."


def delta(finish=None, **values):
    return {"choices": [{"index": 0, "delta": values, "finish_reason": finish}]}


def script(body):
    """The events of an answer to a request."""
    said = body["messages"][-1]
    usage = {"choices": [], "usage": {"prompt_tokens": 41, "completion_tokens": 23, "total_tokens": 64}}
    if said["role"] == "tool":
        return [delta(content=f"It is {said['content']}."), delta("stop"), usage]
    if "weather" in said["content"]:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        rest = {"index": 0, "function": {"arguments": '{"city": "Seoul"}'}}
        return [delta(content="", tool_calls=[call]), delta(tool_calls=[rest]), delta("tool_calls"), usage]
    if "long" in said["content"]:
        return [delta(content=f"word{index} ") for index in range(400)]
    if "fail" in said["content"]:
        return [delta(content="so "), {"error": {"message": "the model failed; the server's log says why."}}]
    thoughts = [delta(reasoning_content="The user asks "), delta(reasoning_content="for the weather.")]
    return [*thoughts, *(delta(content=TEXT[at : at + 7]) for at in range(0, len(TEXT), 7)), delta("stop"), usage]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/v1/models":
            return self._send(200, "application/json", json.dumps({"data": [{"id": "exaone4-tiny-router"}]}).encode())
        path = PAGE / (self.path.strip("/") or "index.html")
        if not path.is_file():
            return self._send(404, "application/json", b"{}")
        return self._send(200, KINDS[path.suffix], path.read_bytes())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((body, self.headers.get("authorization")))
        if self.server.key and self.headers.get("authorization") != f"Bearer {self.server.key}":
            return self._send(401, "application/json", b'{"error": {"message": "the API key is wrong; pass another."}}')
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            for event in script(body):
                self.wfile.write(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())
                self.wfile.flush()
                time.sleep(0.01)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.gone.set()
        self.close_connection = True
        return None

    def _send(self, status, kind, data):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-security-policy", POLICY)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]
        found = running.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads, found.seen, found.key, found.gone = True, [], None, threading.Event()
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def open_page(browser, server):
    contexts = []

    def opened(width=900, height=760, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.problems, page.asked = [], []
        page.on("console", lambda told: page.problems.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        return page

    yield opened
    for context in contexts:
        context.close()


def ask(page, text, wait=True):
    page.fill("#input", text)
    page.keyboard.press("Enter")
    if wait:
        page.wait_for_selector("#log[aria-busy=false]")
        page.wait_for_selector("#send:not([hidden])")


def keep(page, name):
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png")


@pytest.mark.parametrize(("width", "scheme"), [(900, "light"), (900, "dark"), (360, "light")])
def test_an_answer_is_shown_as_text_with_reasoning_folded_and_usage(open_page, server, width, scheme):
    page = open_page(width, scheme=scheme)
    ask(page, "서울 날씨 어때?\n두 줄")
    page.wait_for_selector("#status:has-text('tokens/s')")
    keep(page, f"answer-{width}-{scheme}")
    assert page.inner_text("h1") == "exaone4-tiny-router"
    assert "23 tokens" in page.inner_text("#status")
    assert page.inner_text(".assistant pre") == "print('<b>hi</b>')"
    assert page.locator(".assistant img, .assistant b").count() == 0
    assert "<img src=x onerror=alert(1)>" in page.inner_text(".assistant > .text")
    assert not page.locator("details.reasoning").evaluate("each => each.open")
    page.click("summary")
    assert page.inner_text(".reasoning .text") == "The user asks for the weather."
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    assert all(url.startswith((f"http://127.0.0.1:{server.server_port}/", "data:")) for url in page.asked)


def test_a_tool_call_is_answered_by_hand(open_page, server):
    page = open_page()
    ask(page, "weather in Seoul?")
    page.wait_for_selector(".call textarea:focus")
    keep(page, "tool-call")
    assert page.inner_text(".call").startswith('get_weather({"city": "Seoul"})')
    assert page.is_disabled("#send")
    page.keyboard.type("21 degrees")
    page.keyboard.press("Enter")
    page.wait_for_selector(".assistant .text:has-text('It is 21 degrees.')")
    call, result = server.seen[-1][0]["messages"][-2:]
    assert call["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Seoul"}'}
    assert result == {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"}


def test_escape_stops_and_an_answer_can_be_made_again_or_its_question_edited(open_page, server):
    page = open_page()
    ask(page, "something long", wait=False)
    page.wait_for_selector(".assistant:has-text('word3')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".note:has-text('Stopped.')")
    assert server.gone.wait(5)
    page.click("text=Edit")
    assert page.input_value("#input") == "something long"
    ask(page, "hello")
    page.click("text=Regenerate")
    page.wait_for_selector(".actions:has-text('Regenerate')")
    assert [each["content"] for each in server.seen[-1][0]["messages"]] == ["hello"]
    page.click("text=New chat")
    assert page.locator("article").count() == 0


def test_enter_sends_but_not_while_a_syllable_is_composed_nor_with_shift(open_page, server):
    page = open_page()
    page.fill("#input", "안녕")
    page.press("#input", "Shift+Enter")
    for options in ("isComposing: true", "keyCode: 229"):
        page.evaluate(
            f"document.querySelector('#input').dispatchEvent(new KeyboardEvent('keydown', "
            f"{{key: 'Enter', bubbles: true, cancelable: true, {options}}}))"
        )
    assert server.seen == [] and page.input_value("#input") == "안녕\n"
    page.press("#input", "Enter")
    page.wait_for_selector(".assistant")
    assert server.seen[0][0]["messages"] == [{"role": "user", "content": "안녕\n"}]


def test_settings_are_sent_and_a_wrong_one_is_said(open_page, server):
    page = open_page()
    page.click("text=Settings")
    page.fill("[name=system]", "Be brief.")
    page.fill("[name=temperature]", "0.3")
    page.fill("[name=max_tokens]", "64")
    page.check("[name=thinking]")
    page.fill("[name=tools]", "[{]")
    page.click("#done")
    assert "Tools are not JSON" in page.inner_text("#settings-error")
    page.fill("[name=tools]", '[{"type": "function", "function": {"name": "get_weather"}}]')
    keep(page, "settings")
    page.click("#done")
    ask(page, "hello")
    body = server.seen[0][0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"], body["stream"]) == (0.3, 64, True)
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert body["tools"][0]["function"]["name"] == "get_weather"


def test_a_key_is_asked_for_and_stays_in_the_tab_and_errors_are_said(open_page, server):
    server.key = "secret"
    page = open_page()
    ask(page, "hello")
    assert page.inner_text("#error") == "the API key is wrong; pass another."
    page.fill("[name=key]", "secret")
    page.keyboard.press("Enter")
    page.click("text=New chat")
    ask(page, "fail please")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == "the model failed; the server's log says why."
    assert server.seen[-1][1] == "Bearer secret"
    assert page.evaluate("[localStorage.length, sessionStorage.getItem('key'), document.cookie]") == [0, "secret", ""]
