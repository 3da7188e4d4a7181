"""Parts of the server, without a model and without a socket."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from exaone_export.errors import CapacityError, ClosedError, EngineBusyError, LogitsError, UnsupportedOptionError
from exaone_export.runtime.core.requests import Generation, Request, Token
from exaone_export.runtime.core.sampling import Logprobs
from exaone_export.runtime.serve.answering import Answers, News
from exaone_export.runtime.serve.answers.response import ResponseAnswer
from exaone_export.runtime.serve.constraints.requested import constraint_of
from exaone_export.runtime.serve.errors import ApiError, add_handlers, error_of
from exaone_export.runtime.serve.lifecycle import GracefulServer, Lifecycle
from exaone_export.runtime.serve.protocol.chat import ChatRequest
from exaone_export.runtime.serve.protocol.responses import ResponseRequest
from exaone_export.runtime.serve.ray.run import _signals
from exaone_export.runtime.serve.respond import Prepared, respond
from exaone_export.runtime.serve.routes.embeddings import embedding_routes
from exaone_export.runtime.serve.routes.server import health_routes
from exaone_export.runtime.serve.run import listen
from exaone_export.runtime.serve.served import Served
from exaone_export.runtime.serve.settings import Settings
from exaone_export.runtime.serve.transport.in_process import Call, messages

SAYS: Any = SimpleNamespace(push=str, finish=lambda: "")  # a token is its number as text
NUMBERS: Any = SimpleNamespace(decode=lambda ids: str(ids[0]), convert_ids_to_tokens=str, decoder=None)


def test_an_answer_that_is_left_does_not_end_the_others() -> None:
    async def read() -> list[tuple[int, str]]:
        answers = Answers(SimpleNamespace(submit=Generation), asyncio.get_running_loop())  # type: ignore[arg-type]
        answers.submit([(Request([3], 5, listener=answers.listen), SAYS)] * 2)
        first, second = answers.generations
        for each in (first, second):
            each.put(Token(1))
        found = list[tuple[int, str]]()
        async for news in answers:
            assert news is not None
            found.append((news.index, news.text))
            if news.index == 0:
                answers.leave(0)
                assert first.cancellation.is_requested
                first.put("cancelled")
            elif news.finish_reason is None:
                second.put(Token(2))
                second.put("stop")
        return found

    assert asyncio.run(read()) == [(0, "1"), (1, "1"), (1, "2")]


def test_a_server_whose_engine_has_failed_is_not_ready() -> None:
    engine: Any = SimpleNamespace(is_alive=True)
    served = served_by(engine, Lifecycle(1))
    app = FastAPI()
    app.include_router(health_routes(served))

    async def ready() -> tuple[int, bytes]:
        start, body = [message async for message in messages(app, Call("GET", "/ready"))]
        return start["status"], body["body"]

    assert asyncio.run(ready()) == (200, b'{"status":"ready"}')
    engine.is_alive = False
    assert asyncio.run(ready()) == (503, b'{"status":"failed"}')
    served.lifecycle.stopping = True
    assert asyncio.run(ready()) == (503, b'{"status":"stopping"}')


def served_by(engine: Any, lifecycle: Lifecycle) -> Served:
    none: Any = None
    return Served(Settings(), SimpleNamespace(engine=engine), none, none, none, lifecycle)  # type: ignore[arg-type]


def test_grammars_that_take_long_hold_up_no_other_request_and_are_not_without_number() -> None:
    served, may_end = served_by(SimpleNamespace(most_requests=70), Lifecycle(1)), threading.Event()

    async def prepare() -> list[str]:
        def slow() -> str:
            may_end.wait(20)
            return "slow"

        waiting = [asyncio.ensure_future(served.prepare(slow, is_constrained=True)) for _ in range(70)]
        await asyncio.sleep(0)
        found = await asyncio.wait_for(served.prepare(lambda: "quick", is_constrained=False), 10)
        with pytest.raises(EngineBusyError, match="70 requests are being prepared"):
            await served.prepare(lambda: "one more", is_constrained=True)
        waiting.pop().cancel()  # a client that goes while a grammar waits
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(served.prepare(lambda: "again", is_constrained=True)))
        await asyncio.sleep(0)
        may_end.set()
        return [found, *await asyncio.gather(*waiting)]

    assert asyncio.run(prepare()) == ["quick", *["slow"] * 69, "again"]
    served.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        asyncio.run(served.prepare(lambda: "late", is_constrained=True))


@pytest.mark.parametrize(
    ("cause", "status", "code"),
    [
        (MemoryError(), 503, "out_of_memory"),
        (CapacityError("no room"), 503, "out_of_memory"),
        (RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer"), 503, "out_of_memory"),
        (RuntimeError("std::bad_alloc"), 503, "out_of_memory"),
        (ClosedError("closed"), 503, "engine_ended"),
        (RuntimeError("in an allocation"), 500, "server_failed"),
        (LogitsError("not finite"), 500, "model_failed"),
    ],
)
def test_what_may_pass_is_told_apart_from_what_fails(cause: Exception, status: int, code: str) -> None:
    error = error_of(cause)
    assert (error.status, error.code) == (status, code)


def never() -> Any:
    return asyncio.sleep(60)


@pytest.mark.parametrize(("stream", "is_stopped"), [(True, False), (True, True), (False, False), (False, True)])
def test_what_is_prepared_for_too_long_is_ended(stream: bool, is_stopped: bool) -> None:
    lifecycle, begun, may_end = Lifecycle(60 if is_stopped else 0.2), threading.Event(), threading.Event()
    submitted = list[Generation]()

    def submit(request: Request) -> Generation:
        submitted.append(Generation(request))
        return submitted[-1]

    served = served_by(SimpleNamespace(most_requests=2, submit=submit), lifecycle)

    def prepare(listener: Any) -> Any:
        begun.set()
        may_end.wait(20)
        return Prepared([(Request([3], 5, listener=listener), SAYS)], None)  # type: ignore[arg-type]

    async def ask() -> None:
        lifecycle.in_flight += 1
        request: Any = SimpleNamespace(receive=never, scope={})
        try:
            await asyncio.wait_for(respond(served, request, prepare, stream=stream, is_constrained=False), 10)
        finally:
            lifecycle.in_flight -= 1
            may_end.set()

    async def both() -> ApiError:
        asked = asyncio.ensure_future(ask())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        if is_stopped:
            await lifecycle.drain(0)
        with pytest.raises(ApiError) as caught:
            await asked
        return caught.value

    assert asyncio.run(both()).status == (503 if is_stopped else 504)  # which waits for the thread too
    assert len(submitted) == 1 and submitted[0].cancellation.is_requested


def test_texts_for_vectors_are_not_encoded_for_longer_than_a_request_may_take() -> None:
    may_end, none = threading.Event(), None
    embedder: Any = SimpleNamespace(encode=lambda _: [1] * may_end.wait(5), size=4, max_length=9)
    served = Served(Settings(model_name="m"), none, embedder, none, none, Lifecycle(0.05))  # type: ignore[arg-type]
    app = FastAPI()
    add_handlers(app)
    app.include_router(embedding_routes(served))

    async def ask() -> int:
        call = Call(
            "POST", "/v1/embeddings", b'{"model": "m", "input": "x"}', ((b"content-type", b"application/json"),)
        )
        try:
            start, *_ = [message async for message in messages(app, call)]
        finally:
            may_end.set()
        return int(start["status"])

    assert asyncio.run(ask()) == 504


def test_a_streams_answer_has_the_time_that_its_preparation_leaves() -> None:
    deadlines = list[float | None]()

    class Watched(Lifecycle):
        def watch(self, work: Any, deadline: float | None = None) -> Any:
            deadlines.append(deadline)
            return super().watch(work, deadline)

    served = served_by(SimpleNamespace(most_requests=2, submit=Generation), Watched(60))
    writer: Any = SimpleNamespace(begin=lambda: iter(("begun",)))

    async def first() -> Any:
        request: Any = SimpleNamespace(receive=never, scope={})
        response: Any = await respond(
            served, request, lambda _: Prepared([], writer), stream=True, is_constrained=False
        )
        return await anext(response.body_iterator)

    assert "begun" in asyncio.run(first())
    assert len(deadlines) == 2 and len(set(deadlines)) == 1 and None not in deadlines


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_closed_terminal_stops_a_server_as_sigterm_does(is_ignored: bool) -> None:
    def capture() -> Any:
        server = GracefulServer(uvicorn.Config(lambda *_: None), Lifecycle(60), grace_seconds=60)
        with server.capture_signals():
            found = signal.getsignal(signal.SIGHUP)
            if not is_ignored and threading.current_thread() is threading.main_thread():
                assert found == server.handle_exit
                signal.raise_signal(signal.SIGHUP)
                assert server.should_exit
            return found

    before = signal.SIG_IGN if is_ignored else signal.SIG_DFL  # the former under nohup
    kept = signal.signal(signal.SIGHUP, before)
    try:
        capture()
        assert signal.getsignal(signal.SIGHUP) == before
        with ThreadPoolExecutor(1) as other:
            assert other.submit(capture).result() == before
        with _signals() as stopped:
            if not is_ignored:
                assert signal.getsignal(signal.SIGHUP) != before
                signal.raise_signal(signal.SIGHUP)
            assert stopped.is_set() != is_ignored
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, kept)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
STRICT = {"type": "function", "function": {**TOOL["function"], "name": "g", "strict": True}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": [TOOL], "parallel_tool_calls": False},
        {"tools": [TOOL, STRICT]},
        {"tools": [STRICT], "tool_choice": "none"},
        {"parallel_tool_calls": False},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}, "tools": [TOOL]},
        {"structured_outputs": {"choice": ["a"]}},
    ],
)
def test_a_chat_waits_for_grammars_only_if_it_needs_one(asked: dict[str, Any]) -> None:
    body = ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **asked})
    compiler: Any = SimpleNamespace(compile=lambda grammar, name: grammar)
    assert body.is_constrained == (constraint_of(compiler, body) is not None)


def test_a_second_signal_ends_what_runs_and_what_begins_meanwhile() -> None:
    lifecycle = Lifecycle(60)
    server = GracefulServer(uvicorn.Config(lambda *_: None), lifecycle, grace_seconds=60)

    async def run() -> list[str]:
        async def forever() -> None:
            lifecycle.in_flight += 1
            try:
                await lifecycle.run(asyncio.sleep(60))
            finally:
                lifecycle.in_flight -= 1

        server._loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(forever())
        for _ in range(2):
            server.handle_exit(signal.SIGTERM, None)
            await asyncio.sleep(0.1)
        found = [running, asyncio.ensure_future(forever())]
        told = [str(error.detail) for error in await asyncio.gather(*found, return_exceptions=True)]  # type: ignore[union-attr]
        while not server.should_exit:
            await asyncio.sleep(0.01)
        return told

    begun = time.monotonic()
    assert asyncio.run(run()) == ["the server is stopping; try again later."] * 2
    assert time.monotonic() - begun < 5 and not server.force_exit
    server.handle_exit(signal.SIGINT, None)
    assert server.force_exit


def test_work_that_takes_too_long_is_ended_and_a_cancelled_one_is_cancelled() -> None:
    with pytest.raises(ApiError, match=r"took longer than 0\.01 seconds") as caught:
        asyncio.run(Lifecycle(0.01).run(asyncio.sleep(20)))
    assert caught.value.status == 504

    async def cancelled() -> None:
        task = asyncio.ensure_future(Lifecycle(60).run(asyncio.sleep(20)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())


def test_an_engine_that_stops_is_told() -> None:
    async def read() -> None:
        answers = Answers(SimpleNamespace(submit=Generation), asyncio.get_running_loop())  # type: ignore[arg-type]
        answers.submit([(Request([3], 5, listener=answers.listen), SAYS)])
        answers.generations[0].put("cancelled")
        async for _ in answers:
            pass

    with pytest.raises(ApiError, match="the server is stopping"):
        asyncio.run(read())


def test_a_message_behind_a_call_has_its_own_log_probabilities() -> None:
    tool = {"type": "function", "name": "f", "parameters": {}}
    request = ResponseRequest.model_validate({"model": "m", "input": "Hi", "tools": [tool], "top_logprobs": 1})
    answer = ResponseAnswer(request, request.to_chat(), NUMBERS, None)

    def take(text: str, *ids: int, end: bool = False) -> None:
        tokens = [Token(each, Logprobs(-1.0, ((each, -1.0),))) for each in ids]
        list(answer.take(News(0, text, tokens, "stop" if end else None)))

    take("one", 1)
    take('<tool_call>{"name": "f", "arguments": {}}</tool_call>', 2, 3)
    take("two", 4, end=True)
    kinds = [item["type"] for item in answer.whole()["output"]]
    assert kinds == ["message", "function_call", "message"]
    told = [[each["token"] for each in item["content"][0]["logprobs"]] for item in answer.whole()["output"][::2]]
    assert told == [["1"], ["4"]]


@pytest.mark.parametrize("host", ["a..b", "é" * 70, "192.0.2.1"])
def test_an_address_that_cannot_be_listened_on_is_refused_in_a_sentence(host: str) -> None:
    with pytest.raises(
        UnsupportedOptionError, match=r"cannot be listened on \(.+\); choose another with --host and --port"
    ):
        listen(Settings(host=host, port=0, api_keys=("a-key-of-the-tests",)))


def test_every_address_is_that_of_either_family() -> None:
    with listen(Settings(host="::", port=0, api_keys=("a-key-of-the-tests",))) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
