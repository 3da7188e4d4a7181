"""What stands between a socket and the paths, without a model."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import Response, StreamingResponse

from exaone_export.runtime.serve.app import guards
from exaone_export.runtime.serve.errors import ApiError, add_handlers
from exaone_export.runtime.serve.lifecycle import Lifecycle
from exaone_export.runtime.serve.logs import FIELDS
from exaone_export.runtime.serve.metrics import Metrics
from exaone_export.runtime.serve.settings import Settings
from exaone_export.runtime.serve.transport import connections
from exaone_export.runtime.serve.transport.disconnects import while_there
from exaone_export.runtime.serve.transport.in_process import Call, messages
from exaone_export.runtime.serve.transport.observing import Observer

ORIGIN = "https://example.org"
_OBSERVED = "exaone_export.runtime.serve.transport.observing"


class Observed:
    """An application with the middleware of the server's, and what it has logged and counted."""

    def __init__(self, **settings: Any) -> None:
        self.lifecycle, self.metrics = Lifecycle(1), Metrics(None)
        observer = Middleware(Observer, lifecycle=self.lifecycle, metrics=self.metrics)
        self.app = FastAPI(middleware=guards(Settings(**settings), observer))
        add_handlers(self.app)
        self.logged: list[dict[str, Any]] = []
        self.app.get("/health")(lambda: {"status": "ok"})
        self.app.post("/given")(lambda: {})

        @self.app.get("/fails")
        async def fails() -> None:
            raise KeyError

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        given = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())

        async def collect() -> list[Any]:
            return [message async for message in messages(self.app, Call(method, path, headers=given))]

        log, handler = logging.getLogger(_OBSERVED), logging.Handler()
        handler.emit = lambda record: self.logged.append(getattr(record, FIELDS))  # type: ignore[method-assign]
        log.addHandler(handler)
        level, log.level = log.level, logging.INFO
        log.disabled = False
        try:
            start, *rest = asyncio.run(collect())
        finally:
            log.removeHandler(handler)
            log.level = level
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], found, b"".join(each.get("body", b"") for each in rest)


def test_a_failure_is_logged_and_counted_as_one() -> None:
    observed = Observed(allow_origins=(ORIGIN,))
    status, headers, body = observed.ask("GET", "/fails", origin=ORIGIN)
    assert (status, json.loads(body)["error"]["code"]) == (500, "server_failed")
    assert headers["access-control-allow-origin"] == ORIGIN  # so that a page can read it
    assert headers["x-request-id"] == observed.logged[0]["id"] and observed.logged[0]["status"] == 500
    numbers = observed.metrics.text()
    assert b'path="/fails",status="500"} 1.0' in numbers and b"\nprocess_resident_memory_bytes " in numbers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("HEAD", "/given", "POST"), ("GET", "/given", "POST"), ("PUT", "/health", "GET, HEAD")],
)
def test_a_method_that_a_path_has_not_is_told_those_that_it_has(method: str, path: str, allowed: str) -> None:
    status, headers, body = Observed().ask(method, path)
    assert (status, headers["allow"]) == (405, allowed)
    assert json.loads(body)["error"]["message"] == f"{method} is not a method of this path; use {allowed}."


@pytest.mark.parametrize(("given", "kept"), [("a-1.B_2", True), ("a b", False), ("a\tb", False), ("x" * 129, False)])
def test_a_request_keeps_the_name_that_a_proxy_gave_it(given: str, kept: bool) -> None:
    observed = Observed()
    _, headers, _ = observed.ask("GET", "/health", x_request_id=given)
    assert headers["x-request-id"] == observed.logged[0]["id"]
    assert (headers["x-request-id"] == given) == kept


def test_more_requests_than_may_be_in_flight_are_refused_and_health_is_not() -> None:
    observed = Observed(allow_origins=(ORIGIN,))
    observed.lifecycle.most_in_flight = 0
    status, headers, body = observed.ask("GET", "/fails", origin=ORIGIN)
    assert (status, json.loads(body)["error"]["code"], headers["retry-after"]) == (503, "server_busy", "1")
    assert headers["access-control-allow-origin"] == ORIGIN  # so that a page can read it
    assert observed.ask("GET", "/health")[0] == 200 == observed.ask("HEAD", "/health")[0]
    assert [each["method"] for each in observed.logged] == ["other", "GET", "HEAD"]


def test_a_browser_may_send_the_headers_of_openais_client() -> None:
    asked = {"origin": ORIGIN, "access_control_request_method": "POST"}
    wanted = "authorization,content-type,x-stainless-lang"
    status, headers, _ = Observed(allow_origins=(ORIGIN,)).ask(
        "OPTIONS", "/health", access_control_request_headers=wanted, **asked
    )
    assert status == 200 and "x-stainless-lang" in headers["access-control-allow-headers"]


@pytest.mark.parametrize("host", ["llm.example.org", "[", "localhost.example.org", ""])
def test_another_host_is_refused_in_openais_form(host: str) -> None:
    observed = Observed()

    async def asked() -> tuple[int, Any]:
        sent = list[Any]()

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        scope = {"type": "http", "method": "GET", "path": "/health", "query_string": b"", "root_path": ""}
        await observed.app({**scope, "headers": [(b"host", host.encode())]}, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])["error"]

    status, error = asyncio.run(asked())
    assert (status, error["code"]) == (400, "invalid_host") and "--api-key-file" in error["message"]


def test_an_application_behind_the_guards_starts_and_stops() -> None:
    app = Starlette(middleware=guards(Settings()))
    given, sent = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}], list[str]()

    async def receive() -> Any:
        return given.pop()

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_work_for_a_client_that_goes_is_cancelled() -> None:
    ended = list[str]()

    async def work() -> str:
        try:
            await asyncio.sleep(20)
        finally:
            ended.append("ended")
        return "done"

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def cancelled() -> None:
        with pytest.raises(ApiError, match="client has gone"):
            await while_there(gone, work())
        assert ended == ["ended"]

    asyncio.run(cancelled())

    async def soon() -> str:
        return "done"

    async def there() -> Any:
        await asyncio.sleep(20)

    assert asyncio.run(while_there(there, soon())) == "done"


ended = list[str]()
WHOLE = 12 << 20


@contextmanager
def listening(most: int) -> Iterator[int]:
    """A server of an application that waits for half a second on ``/waits``, and sends without end on ``/large``."""
    app = FastAPI()

    @app.get("/whole")
    async def whole() -> Response:
        return Response(bytes(WHOLE))

    @app.get("/large")
    async def large() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1 << 20)
                    await asyncio.sleep(0)  # what is sent to nobody does not wait
            finally:
                ended.append("large")

        return StreamingResponse(parts())

    @app.get("/{name}")
    async def path(name: str, request: Request) -> str:
        await asyncio.sleep(0.5 if name == "waits" else 0)
        return name

    options: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "timeout_graceful_shutdown": 2}
    config = uvicorn.Config(app, http=connections.TimedProtocol, backlog=most, **options)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def test_idle_connections_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 60)
    with listening(4) as port:
        busy = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        busy.request("GET", "/waits")
        time.sleep(0.1)
        idle = [socket.create_connection(("127.0.0.1", port), timeout=2) for _ in range(12)]
        for _ in range(2):
            one = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            one.request("GET", "/soon")
            assert one.getresponse().read() == b'"soon"'
        assert busy.getresponse().read() == b'"waits"'  # what is answered is not closed
        assert idle[0].recv(1) == b""  # long before it would be closed for sending no request
        for each in idle:
            each.close()


def test_a_server_closes_no_connection_of_another_one_in_its_process() -> None:
    with listening(4) as port, listening(1) as other, ExitStack() as stack:
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        kept.connect()
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", other), timeout=2))
        last = http.client.HTTPConnection("127.0.0.1", other, timeout=2)
        last.request("GET", "/soon")
        assert last.getresponse().read() == b'"soon"'
        kept.request("GET", "/soon")
        assert kept.getresponse().read() == b'"soon"'


def test_a_pipelined_request_that_is_answered_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.2)
    with listening(4) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"".join(b"GET /%s HTTP/1.1\r\nhost: localhost\r\n\r\n" % path for path in (b"soon", b"waits")))
        found = b"".join(iter(lambda: client.recv(1 << 16), b""))  # until it is closed for being idle
        assert found.count(b" 200 ") == 2 and found.endswith(b'"waits"')


def test_a_connection_is_kept_longer_than_clients_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.1)
    with listening(4) as port:
        one = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(2):
            one.request("GET", "/soon")
            assert one.getresponse().read() == b'"soon"'
            kept = one.sock
            time.sleep(0.3)  # more than a first request has
        assert kept is one.sock is not None
    assert connections.KEEP_ALIVE_SECONDS > 60  # of nginx and of balancers


def test_a_client_that_does_not_read_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.3)
    with listening(4) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        end = time.monotonic() + 1  # three times as long as it may rest
        while time.monotonic() < end:
            assert client.recv(1 << 20)
        assert not ended
        end = time.monotonic() + 10
        while not ended:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_client_that_reads_a_large_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.3)
    with listening(4) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /whole HTTP/1.1\r\nhost: localhost\r\n\r\n")
        begun, received = time.monotonic(), 0
        while received < WHOLE:
            part = client.recv(1 << 18)
            assert part, f"cut off behind {received} bytes"
            received += len(part)
            time.sleep(max(begun + received / (10 << 20) - time.monotonic(), 0))


@pytest.mark.parametrize(
    ("soft", "hard", "found", "raised"),
    [
        (64, 64, 16, None),
        (1024, 1 << 20, 1024, 2080),
        (256, 1024, 496, 1024),
        (1 << 20, 1 << 20, 1024, None),
        (-1, -1, 1024, None),
        (1024, -1, 1024, 2080),
        (8, 8, 1, None),
    ],
)
def test_connections_keep_to_the_limit_of_open_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, found: int, raised: int | None
) -> None:
    told = list[tuple[int, int]]()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: told.append(limits))
    assert connections.connection_limit() == found
    assert [limits[0] for limits in told if limits[0] != soft] == ([] if raised is None else [raised])
