"""Requests that no client should send, while a stream runs beside them."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.runtime.serve.conftest import KEY

pytestmark = pytest.mark.hostile
LONGEST = 4.0  # Seconds; a machine that is busy with other tests is several times slower than one that is not.
CHAT, TEXT, RESPONSE, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"
SAID = [{"role": "user", "content": "Hi"}]
VALID: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": SAID, "max_tokens": 4},
    TEXT: {"model": "tiny", "prompt": "Hi", "max_tokens": 4},
    RESPONSE: {"model": "tiny", "input": "Hi", "max_output_tokens": 16},
}
ALL = tuple(VALID)
TYPE = {"content-type": "application/json"}


def raw(path: str, body: bytes = b"", *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    """A request, with a length unless ``lines`` give one."""
    defaults = {"host": "localhost", "authorization": f"Bearer {KEY}", "connection": "close", **TYPE}
    if not any(line.startswith("transfer-encoding") for line in lines):
        defaults["content-length"] = str(len(body))
    given = {line.partition(":")[0] for line in lines}
    lines = (*lines, *(f"{name}: {value}" for name, value in defaults.items() if name not in given))
    head = "\r\n".join([f"{method} {path} HTTP/{version}", *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        found = {"type": "array", "items": found}
    return found


def with_schema(schema: Any, path: str = CHAT) -> tuple[str, dict[str, Any]]:
    form = {"name": "x", "schema": schema, "strict": True}
    if path == RESPONSE:
        return path, {"text": {"format": {"type": "json_schema", **form}}}
    return path, {"response_format": {"type": "json_schema", "json_schema": form}}


def tool(**values: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **values}}


# Where there is an @, the rest of a valid body.
BODIES = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "open": b"{",
    "open text": b'{"model": "tiny',
    "NaN": b'@, "temperature": NaN}',
    "Infinity": b'@, "temperature": -Infinity}',
    "a number that is too large": b'@, "temperature": 1e999}',
    "a key twice": b'@, "model": "tiny"}',
    "not UTF-8": b'@, "user": "\xff"}',
    "half a surrogate pair": b'@, "user": "\\ud800"}',
    "UTF-16": '{"model": "tiny"}'.encode("utf-16"),
    "more behind it": b"@} {}",
    "10,000 lists": b'{"model": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "5,000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "a form": b"model=tiny&prompt=Hi",
}
ANY_CHANGES: list[tuple[str, Any]] = [
    ("bogus", 1),
    ("model", "other"),
    ("model", 5),
    ("model", "x" * 10_000),
    ("temperature", -1),
    ("temperature", "1"),
    ("temperature", True),
    ("top_p", 0),
    ("top_k", -2),
    ("top_k", 1.5),
    ("seed", 10**40),
    ("stop", [""]),
    ("stop", ["x"] * 17),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"999999999": 1}),
    ("logit_bias", {"1": 101}),
    ("presence_penalty", 3),
    ("stream", "yes"),
    ("user", "x" * 1000),
]
CHANGES: list[tuple[str, dict[str, Any]]] = [
    *((path, {name: value}) for path in ALL for name, value in ANY_CHANGES),
    *((path, {"n": value}) for path in (CHAT, TEXT) for value in (0, True, 17)),
    *((path, {"max_tokens": value}) for path in (CHAT, TEXT) for value in (-5, 0, 10_000, 2**31)),
    (CHAT, {"top_logprobs": 2}),
    (CHAT, {"top_logprobs": 21, "logprobs": True}),
    (CHAT, {"messages": []}),
    (CHAT, {"messages": "Hi"}),
    (CHAT, {"messages": [{"role": "wizard", "content": "Hi"}]}),
    (CHAT, {"messages": [{"role": "user"}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}),
    (CHAT, {"messages": [*SAID, {"role": "system", "content": "late"}]}),
    (CHAT, {"messages": SAID * 10_001}),
    (CHAT, {"messages": [{"role": "user", "content": "Hello " * 3000}]}),
    (CHAT, {"functions": []}),
    (CHAT, {"store": True}),
    (CHAT, {"store": 0}),
    (CHAT, {"tools": [tool()] * 2}),
    (CHAT, {"tools": [tool(parameters={"type": "string"}, strict=True)]}),
    (CHAT, {"tools": [tool(parameters=5)]}),
    (CHAT, {"tool_choice": "required"}),
    (CHAT, {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "other"}}}),
    (CHAT, {"response_format": {"type": "nonsense"}}),
    (CHAT, {"structured_outputs": {"regex": "(" * 5000}}),
    (CHAT, {"structured_outputs": {"choice": []}}),
    (CHAT, {"metadata": {"a": 1}}),
    (CHAT, {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}),
    (TEXT, {"prompt": []}),
    (TEXT, {"prompt": [-1]}),
    (TEXT, {"prompt": [10**6]}),
    (TEXT, {"prompt": [[1], "x", []]}),
    (TEXT, {"prompt": ["x"] * 257}),
    (TEXT, {"prompt": "Hello " * 3000}),
    (TEXT, {"suffix": "x"}),
    (TEXT, {"best_of": 2}),
    (TEXT, {"echo": True}),
    (TEXT, {"structured_outputs": {"regex": "(?=a)b"}}),
    (RESPONSE, {"max_output_tokens": 0}),
    (RESPONSE, {"input": [{"type": "unknown"}]}),
    (RESPONSE, {"input": [5]}),
    with_schema(nested(100)),
    with_schema({"$ref": "https://example.org/x"}),
    with_schema({"minimum": "x"}),
    with_schema({"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(5000)}}),
    with_schema({"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(5000)}}, RESPONSE),
    with_schema({"enum": ["x" * 300_000]}),
    with_schema({"allOf": [{"type": "string", "pattern": f".*{index}.*"} for index in range(50)]}),
    (VECTORS, {"model": "tiny", "input": "Hi"}),
]
WIRE: dict[str, tuple[int | None, bytes]] = {
    "noise": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n"),
    "HTTP/2": (None, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no host": (400, b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n"),
    "HTTP/1.0": (400, raw(CHAT, b"{", version="1.0")),
    "HTTP/9": (400, raw(CHAT, b"{", version="9")),
    "a header of 100 kB": (400, raw(CHAT, b"", f"x: {'x' * 100_000}")),
    "10,000 headers": (400, raw(CHAT, b"", *(f"x{index}: y" for index in range(10_000)))),
    "a path of 60 kB": (404, raw("/" + "x" * 60_000, method="GET")),
    "a header without a colon": (400, raw(CHAT, b"", "nonsense")),
    "NUL in a header": (400, raw(CHAT, b"", "x: \0")),
    "a length below 0": (400, raw(CHAT, b"", "content-length: -1")),
    "a length that is no number": (400, raw(CHAT, b"", "content-length: ten")),
    "two lengths": (400, raw(CHAT, b"{}", "content-length: 2", "content-length: 3")),
    "a length of 5 MiB": (413, raw(CHAT, b"", f"content-length: {5 << 20}")),
    "a length of 10**30": (400, raw(CHAT, b"", f"content-length: {10**30}")),
    "a length that is too short": (400, raw(CHAT, json.dumps(VALID[CHAT]).encode(), "content-length: 10")),
    "a length that is too long": (None, raw(CHAT, b"{}", "content-length: 100")),
    "a body that never comes": (None, raw(CHAT, b"", "content-length: 100", "expect: 100-continue")),
    "half of a header": (None, b"POST /v1/chat/completions HT"),
    "a chunk of no size": (400, raw(CHAT, b"zz\r\n{}\r\n0\r\n\r\n", "transfer-encoding: chunked")),
    "chunks that end early": (None, raw(CHAT, b"5\r\n{", "transfer-encoding: chunked")),
    "chunks of 5 MiB": (413, raw(CHAT, (b"100000\r\n" + b" " * (1 << 20) + b"\r\n") * 5, "transfer-encoding: chunked")),
    "chunks and a length": (400, raw(CHAT, b"0\r\n\r\n", "transfer-encoding: chunked", "content-length: 5")),
    "an encoding": (415, raw(CHAT, b"\x1f\x8b\x08\x00", "content-encoding: gzip")),
    "an unknown transfer": (400, raw(CHAT, b"", "transfer-encoding: gzip")),
    "another type": (400, raw(CHAT, json.dumps(VALID[CHAT]).encode(), "content-type: text/plain")),
    "a form": (400, raw(CHAT, b"--x\r\n\r\n", "content-type: multipart/form-data; boundary=x")),
    "a web socket": (404, raw("/v1/x", b"", "upgrade: websocket", "connection: upgrade, close", method="GET")),
    "a way out": (404, raw("/../../etc/passwd", method="GET")),
    "an encoded way out": (404, raw("/page/%2e%2e/%2e%2e/etc/passwd%00", method="GET")),
    "two requests": (404, raw("/nothing", b"", "connection: keep-alive", method="GET") + raw("/other", method="GET")),
    **{f"{name} of a chat": (405, raw(CHAT, method=name)) for name in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "x")},
}
KEYS = {
    "none": ["authorization: "],
    "another": ["authorization: Bearer wrong"],
    "empty": ["authorization: Bearer "],
    "another scheme": [f"authorization: Basic {KEY}"],
    "the beginning": [f"authorization: Bearer {KEY[:-1]}"],
    "more": [f"authorization: Bearer {KEY}0"],
    "not ASCII": ["authorization: Bearer ééé"],
    "10 kB": ["authorization: Bearer " + "x" * 10_000],
}
ROUTES = [*ALL, VECTORS, "/v1/models", "/v1/models/tiny", "/metrics", "/openapi.json", "/nothing"]


@pytest.fixture(scope="module")
def beside(address: str) -> Iterator[None]:
    """A stream that runs again and again, and is the same each time."""
    body = VALID[CHAT] | {"max_tokens": 60, "temperature": 1, "seed": 3, "stream": True, "logit_bias": {"8": -100}}
    is_over, found, gaps = threading.Event(), list[list[str]](), list[float]()

    def read() -> None:
        import http.client

        while not is_over.is_set():
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
            connection.request("POST", CHAT, json.dumps(body), {"authorization": f"Bearer {KEY}"} | TYPE)
            pieces, last = list[str](), time.monotonic()
            for line in connection.getresponse():
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
                if line.startswith(b"data: {"):
                    choices = json.loads(line[6:])["choices"]
                    pieces += [choice["delta"].get("content", "") for choice in choices]
            found.append(["".join(pieces)])
            connection.close()

    thread = threading.Thread(target=read)
    thread.start()
    while not found:
        time.sleep(0.01)
    yield
    is_over.set()
    thread.join()
    assert len(found) > 2 and found[0][0] and all(each == found[0] for each in found)
    assert max(gaps) < LONGEST


def responses(address: str, data: bytes, ends: bool = False) -> list[tuple[int, bytes]]:
    """Statuses and bodies of what a connection gets, which may tell that it sends no more behind the data."""
    found = urlsplit(address)
    with socket.create_connection((found.hostname, found.port), timeout=LONGEST) as connection:
        received = bytearray()
        try:
            connection.sendall(data)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                received += piece
        except (BrokenPipeError, ConnectionResetError):
            pass
    answers = []
    while received:
        head, _, rest = bytes(received).partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = lengths[0] if lengths else len(rest)
        answers.append((int(head.split()[1]), rest[:size]))
        received = bytearray(rest[size:])
    return answers


def check(address: str, data: bytes, status: int | None = None) -> None:
    """A refusal in OpenAI's form, or a closed connection, at once; nothing of the server's inside is told."""
    begun = time.monotonic()
    answers = responses(address, data, ends=status is None)
    assert time.monotonic() - begun < LONGEST
    assert answers or status is None
    for found, body in (answer for answer in answers if answer[0] != 100):
        assert 400 <= found < 500 and status in (None, found), (found, body)
        error = json.loads(body)["error"]
        assert error.keys() == {"message", "type", "param", "code"} and error["message"].endswith("."), error
        assert ";" in error["message"] or error["param"], error  # how to correct it, or where it is wrong
        for word in ("Traceback", ".py", "/tmp", "/home", "site-packages", "exaone_export"):
            assert word not in body.decode(), body


@pytest.mark.parametrize(("path", "name"), itertools.product(ALL, BODIES))
def test_a_body_that_is_not_json(address: str, beside: None, path: str, name: str) -> None:
    check(address, raw(path, BODIES[name].replace(b"@", json.dumps(VALID[path])[:-1].encode())), 400)


@pytest.mark.parametrize(
    ("path", "change"), CHANGES, ids=[f"{path[4:]} {json.dumps(change)[:50]}" for path, change in CHANGES]
)
def test_a_field_that_cannot_be_honoured(address: str, beside: None, path: str, change: dict[str, Any]) -> None:
    status = 404 if change.keys() == {"model"} and len(str(change["model"])) in range(2, 200) else 400
    check(address, raw(path, json.dumps(VALID.get(path, {}) | change).encode()), 404 if path == VECTORS else status)


@pytest.mark.parametrize("name", WIRE)
def test_a_connection_that_breaks_the_protocol(address: str, beside: None, name: str) -> None:
    status, data = WIRE[name]
    check(address, data, status)


@pytest.mark.parametrize(
    ("path", "name"), [*itertools.product(ROUTES, list(KEYS)[:2]), *((CHAT, name) for name in list(KEYS)[2:])]
)
def test_a_wrong_key(address: str, beside: None, path: str, name: str) -> None:
    method = "POST" if path in VALID else "GET"
    check(address, raw(path, json.dumps(VALID.get(path, {})).encode(), *KEYS[name], method=method), 401)
