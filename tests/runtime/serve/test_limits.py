"""A server with narrow limits: what is beyond them, who may use it, what it tells of itself, and how it stops."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.runtime.serve.conftest import KEY, Server, metric, send, started
from tests.runtime.serve.test_malformed import CHAT, TYPE, VALID, raw

ORIGIN = "https://example.org"
SECRET = "a-word-of-a-prompt"
LONG = VALID[CHAT] | {"max_tokens": 480, "temperature": 1, "logit_bias": {"8": -100}}
# Its clients have a second to send a request, and a step of its model takes longer than this artifact's does.
PATCH = """
import time
from exaone_export.runtime.core.scheduling.worker import Worker
from exaone_export.runtime.serve.transport import connections, strict_requests
connections.REQUEST_SECONDS = strict_requests.BODY_SECONDS = 1
decode = Worker._decode
Worker._decode = lambda worker: (time.sleep(0.03), decode(worker))
"""


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Server]:
    options = ("--slots", "1", "--queue", "1", "--max-body", "1", "--request-seconds", "3", "--grace-seconds", "2")
    found = started(tiny, "--model-name", "tiny", "--log-json", "--allow-origin", ORIGIN, *options, patch=PATCH)
    yield found
    found.process.kill()


def begun(address: str, body: dict[str, Any], path: str = CHAT) -> http.client.HTTPConnection:
    """A request whose answer is not read yet."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.request("POST", path, json.dumps(body), {"authorization": f"Bearer {KEY}"} | TYPE)
    return connection


def until(address: str, name: str, wanted: int = 1) -> None:
    """Wait for a number of the server's."""
    end = time.monotonic() + 10
    while metric(address, name) != wanted:
        assert time.monotonic() < end, name
        time.sleep(0.01)


def events_of(response: http.client.HTTPResponse) -> list[dict[str, Any]]:
    lines = response.read().decode().splitlines()
    assert "data: [DONE]" not in lines
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def test_a_full_queue_is_429_and_what_takes_too_long_ends_with_an_error(server: Server) -> None:
    running = begun(server.address, LONG)
    until(server.address, "running")
    asked = VALID["/v1/responses"] | {"stream": True, "max_output_tokens": 480, "logit_bias": {"8": -100}}
    waiting = begun(server.address, asked, "/v1/responses")
    until(server.address, "waiting")
    status, found = send(server.address, json.dumps(LONG).encode())
    assert (status, found["error"]["code"], found["error"]["type"]) == (429, "engine_busy", "rate_limit_error")
    answer = running.getresponse()
    assert answer.status == 504 and "3 seconds" in json.loads(answer.read())["error"]["message"]
    first, *_, last = events_of(waiting.getresponse())
    assert (first["type"], last["type"], last["response"]["status"]) == (
        "response.created",
        "response.failed",
        "failed",
    )
    assert "3 seconds" in last["response"]["error"]["message"]
    until(server.address, "running", 0)
    *_, last = events_of(begun(server.address, LONG | {"stream": True}).getresponse())
    assert "3 seconds" in last["error"]["message"]


def test_slow_clients_are_sent_away(server: Server) -> None:
    found = urlsplit(server.address)
    slow = raw(CHAT, b"{}", "content-length: 30"), raw(CHAT, b"")[:40]
    connections = [socket.create_connection((found.hostname, found.port), timeout=10) for _ in slow]
    for connection, data in zip(connections, slow, strict=True):
        connection.sendall(data)
    body, head = (b"".join(iter(lambda: connection.recv(1 << 16), b"")) for connection in connections)  # noqa: B023
    assert b" 408 " in body and json.loads(body.partition(b"\r\n\r\n")[2])["error"]["code"] == "slow_request"
    assert head == b""


def test_bodies_have_a_limit(server: Server) -> None:
    large = json.dumps(VALID[CHAT]).encode().ljust(1 << 20)
    assert send(server.address, large)[0] == 200
    status, found = send(server.address, large + b" ")
    assert (status, found["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_client_that_still_sends_a_large_body_gets_the_answer(server: Server, is_chunked: bool) -> None:
    """And not a broken connection, which a client takes for a failure and tries again."""
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=20)
    parts = [b" " * ((1 << 20) + 1 - (512 << 10)), b" " * (256 << 10), b" " * (256 << 10)]

    def slowly() -> Iterator[bytes]:
        for part in parts:
            yield part
            time.sleep(0.1)

    length = {} if is_chunked else {"content-length": str(sum(map(len, parts)))}
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **length}
    connection.request("POST", CHAT, body=slowly(), headers=headers, encode_chunked=is_chunked)
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["error"]["code"]) == (413, "request_too_large")


def test_pages_of_one_origin_may_use_it(server: Server) -> None:
    def headers(method: str, origin: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=20)
        given = {"origin": origin, "access-control-request-method": "POST", "authorization": f"Bearer {KEY}"}
        connection.request(method, CHAT if method == "OPTIONS" else "/v1/models", headers=given)
        response = connection.getresponse()
        return response.status, response.headers.get("access-control-allow-origin")

    assert headers("OPTIONS", ORIGIN) == headers("GET", ORIGIN) == (200, ORIGIN)
    assert headers("OPTIONS", "https://example.com") == (400, None)
    assert headers("GET", "https://example.com") == (200, None)


def test_health_needs_no_key_and_metrics_count(server: Server) -> None:
    for path in ("/health", "/ready"):
        assert send(server.address, None, path=path, key="")[0] == 200
    before = metric(server.address, "answer_tokens_total")
    assert send(server.address, json.dumps(VALID[CHAT] | {"logit_bias": {"8": -100}}).encode())[0] == 200
    assert metric(server.address, "answer_tokens_total") - before == VALID[CHAT]["max_tokens"]
    assert metric(server.address, 'http_requests_total{method="POST",path="/v1/chat/completions",status="200"}') >= 1
    assert metric(server.address, "slots") == 1 and metric(server.address, "time_to_first_token_seconds_count") >= 1
    assert metric(server.address, 'http_seconds_count{path="/health"}') >= 1


def test_a_stop_lets_answers_end_for_a_time_and_the_log_tells_no_prompt(server: Server) -> None:
    short = begun(server.address, LONG | {"max_tokens": 6})
    until(server.address, "running")
    secret = LONG | {"messages": [{"role": "user", "content": SECRET}], "stream": True}
    long = begun(server.address, secret)
    until(server.address, "waiting")
    server.process.send_signal(signal.SIGTERM)
    while (told := send(server.address, None, path="/ready")) != (503, {"status": "stopping"}):
        assert told[0] == 200
    assert send(server.address, json.dumps(VALID[CHAT]).encode())[1]["error"]["code"] == "stopping"
    assert short.getresponse().status == 200
    *_, last = events_of(long.getresponse())
    assert last["error"]["code"] == "stopping"
    assert server.wait() == 0
    events = [json.loads(line) for line in server.log if line.strip()]
    requests = [each for each in events if each["event"] == "request"]
    assert {200, 408, 413, 429, 503, 504} <= {each["status"] for each in requests}
    assert {"stopping", "request_timeout"} <= {each.get("reason") for each in requests}  # of streams
    assert all({"time", "level", "id", "method", "path", "seconds"} <= each.keys() for each in requests)
    assert SECRET not in "".join(server.log) and KEY not in "".join(server.log)
    assert "Traceback" not in "".join(server.log)
