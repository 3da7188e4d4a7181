"""What the ingress of several replicas does when one of them goes, without a cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from click.testing import CliRunner
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from exaone_export.cli.main import cli
from exaone_export.errors import KeyFileError, UnsupportedOptionError
from exaone_export.runtime.serve.ray import forwarding
from exaone_export.runtime.serve.ray.affinity import session_of
from exaone_export.runtime.serve.ray.application import build
from exaone_export.runtime.serve.ray.forwarding import Forwarder
from exaone_export.runtime.serve.ray.ingress import Ingress
from exaone_export.runtime.serve.ray.merged_metrics import merged
from exaone_export.runtime.serve.ray.replica import Replica
from exaone_export.runtime.serve.settings import Settings
from exaone_export.runtime.serve.transport.body_limit import BodyLimit
from exaone_export.runtime.serve.transport.in_process import Call, messages
from exaone_export.runtime.sessions.prefill.choice import GraphChoice

JSON = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
EVENTS = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
CHAT = Call("POST", "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "Hi"}]}')


def body(text: str, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


def event(**delta: str) -> dict[str, Any]:
    return body(f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': None}]})}\n\n", more=True)


class Replicas:
    """Gives every request the next script: messages, and what is raised."""

    def __init__(self, *scripts: Sequence[Any]) -> None:
        self.scripts, self.calls, self.cancelled = list(scripts), list[tuple[Call, str | None]](), 0

    def ask(self, call: Call, session: str | None) -> Any:
        self.calls.append((call, session))
        return _Script(self, self.scripts.pop(0))

    async def count(self) -> bytes:
        return b"exaone_slots 1\n"


class _Script:
    def __init__(self, replicas: Replicas, script: Sequence[Any]) -> None:
        self._replicas, self._script = replicas, script

    async def __aiter__(self) -> AsyncIterator[Any]:
        for each in self._script:
            if isinstance(each, BaseException):
                raise each
            if each is ...:
                await asyncio.sleep(60)
            yield each

    def cancel(self) -> None:
        self._replicas.cancelled += 1


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "_PAUSE_SECONDS", 0)


def asked(replicas: Replicas, call: Call = CHAT, **settings: Any) -> tuple[int, str]:
    chosen = Settings(**settings)
    app = BodyLimit(Forwarder(replicas.ask, replicas.count, chosen), chosen.max_body_bytes)

    async def collect() -> tuple[int, str]:
        found = [message async for message in messages(app, call)]
        assert [each["type"] for each in found].count("http.response.start") == 1
        return found[0]["status"], b"".join(each.get("body", b"") for each in found).decode()

    return asyncio.run(collect())


def failed() -> RayTaskError:
    return RayTaskError("answer", "traceback with /a/path", ValueError("of the replica"))


def test_what_a_replica_had_not_answered_another_one_does() -> None:
    replicas = Replicas([ActorDiedError()], [JSON, body('{"half', more=True), ActorDiedError()], [JSON, body("{}")])
    assert asked(replicas) == (200, "{}")
    assert len(replicas.calls) == 3 == replicas.cancelled
    assert len({session for _, session in replicas.calls}) == 1


async def _start(app: Any) -> Any:
    start, *_ = [message async for message in messages(app, CHAT)]
    return start


def test_a_response_has_the_name_of_a_request_once_which_rays_proxy_adds() -> None:
    named = {**JSON, "headers": [*JSON["headers"], (b"x-request-id", b"a")]}
    app = Forwarder(Replicas([named, body("{}")]).ask, Replicas().count, Settings())

    assert asyncio.run(_start(app))["headers"] == JSON["headers"]


def test_a_full_queue_says_when_to_come_again() -> None:
    full = BackPressureError(num_queued_requests=4, max_queued_requests=4)
    found = asyncio.run(_start(Forwarder(Replicas([full]).ask, Replicas().count, Settings())))
    assert found["status"] == 429 and (b"retry-after", b"1") in found["headers"]


def test_a_stream_that_has_told_nothing_is_repeated_too() -> None:
    role, seven = event(role="assistant", content=""), event(content="7")
    replicas = Replicas(
        [EVENTS, role, ActorDiedError()], [EVENTS, role, seven, event(content="2"), body("data: [DONE]\n\n")]
    )
    status, text = asked(replicas)
    assert status == 200 and text.count("assistant") == 1
    assert text.endswith("data: [DONE]\n\n") and '"7"' in text and '"2"' in text


def test_a_stream_of_a_response_is_repeated_too() -> None:
    def told(kind: str, **more: str) -> dict[str, Any]:
        return body(f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n", more=True)

    begun, delta = (
        [told("response.created"), told("response.in_progress")],
        told("response.output_text.delta", delta="7"),
    )
    replicas = Replicas([EVENTS, *begun, ActorDiedError()], [EVENTS, *begun, delta, body("")])
    status, text = asked(replicas, Call("POST", "/v1/responses", b'{"input": "Hi"}'))
    assert status == 200 and text.count("response.created") == 2 and text.count('"7"') == 1
    assert len(replicas.calls) == 2


def test_a_stream_that_has_begun_ends_with_an_error_event() -> None:
    replicas = Replicas([EVENTS, event(role="assistant"), event(content="7"), ActorDiedError()])
    status, text = asked(replicas)
    last = json.loads(text.strip().rpartition("data: ")[2])
    assert status == 200 and last["error"]["code"] == "replica_lost"
    assert "[DONE]" not in text and len(replicas.calls) == 1


WAITING = body(": waiting\n\n", more=True)


def test_a_comment_that_shows_life_is_not_held_back_and_is_no_answer() -> None:
    role, seven = event(role="assistant", content=""), event(content="7")
    replicas = Replicas(
        [EVENTS, role, WAITING, WAITING, ActorDiedError()],
        [EVENTS, role, WAITING, seven, WAITING, event(content="2"), body("data: [DONE]\n\n")],
    )
    status, text = asked(replicas)
    assert status == 200 and text.startswith(": waiting\n\n" * 3 + "data: ") and text.count(": waiting") == 4
    assert text.count("assistant") == text.count('"7"') == text.count('"2"') == 1 and "replica_lost" not in text
    assert text.endswith("data: [DONE]\n\n") and len(replicas.calls) == 2


@pytest.mark.parametrize(
    ("others", "code"),
    [
        ([[ActorDiedError()]] * 2, "replica_lost"),
        ([[JSON | {"status": 400}, body('{"error": {"code": "invalid_value"}}')]], "invalid_value"),
        ([[BackPressureError(num_queued_requests=4, max_queued_requests=4)]], "engine_busy"),
    ],
)
def test_an_error_behind_a_comment_is_an_event(others: list[Any], code: str) -> None:
    status, text = asked(Replicas([EVENTS, WAITING, ActorDiedError()], *others))
    comment, found, end = text.split("\n\n")
    assert (status, comment, end) == (200, ": waiting", "")
    assert json.loads(found.removeprefix("data: "))["error"]["code"] == code


def test_what_is_no_event_of_ours_is_passed_on() -> None:
    assert asked(Replicas([EVENTS, body("data: {half\n\n", more=True), body("")])) == (200, "data: {half\n\n")


def test_a_replica_whose_application_is_not_ready_is_replaced() -> None:
    async def check(status: int) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["path"] == "/ready"
            await send(JSON | {"status": status})
            await send(body("{}"))

        replica = Replica.__new__(Replica)
        replica._app = app  # type: ignore[assignment]
        await replica.check_health()

    asyncio.run(check(200))
    with pytest.raises(RuntimeError, match="/ready answers 503"):
        asyncio.run(check(503))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (failed(), 500, "server_failed"),
        (BackPressureError(num_queued_requests=4, max_queued_requests=4), 429, "engine_busy"),
    ],
)
def test_what_another_replica_would_not_change_is_not_repeated(error: Exception, status: int, code: str) -> None:
    replicas = Replicas([error])
    found, text = asked(replicas)
    assert (found, json.loads(text)["error"]["code"], len(replicas.calls)) == (status, code, 1)
    assert "/a/path" not in text


def test_a_request_that_ends_every_replica_is_given_up() -> None:
    replicas = Replicas(*[[ActorDiedError()]] * 9)
    status, text = asked(replicas)
    assert (status, json.loads(text)["error"]["code"], len(replicas.calls)) == (503, "replica_lost", 3)


def test_sizes_and_times_have_limits_and_metrics_come_from_all() -> None:
    replicas = Replicas([...])
    assert asked(replicas, Call("POST", "/v1/completions", b"x" * 11), max_body_bytes=10)[0] == 413
    assert not replicas.calls
    assert asked(replicas, Call("GET", "/metrics")) == (200, "exaone_slots 1\n")
    assert asked(replicas, request_seconds=0.1 - forwarding._SPARE_SECONDS)[0] == 504
    assert replicas.cancelled == 1


def test_a_client_that_goes_frees_its_replica() -> None:
    replicas = Replicas([EVENTS, event(content="7"), ...])
    app = Forwarder(replicas.ask, replicas.count, Settings())

    async def go() -> None:
        found = messages(app, CHAT)
        assert (await anext(found))["status"] == 200
        await found.aclose()
        await asyncio.sleep(0)

    begun = time.monotonic()
    asyncio.run(asyncio.wait_for(go(), 10))
    assert time.monotonic() - begun < 1
    assert replicas.cancelled == 1


@pytest.mark.parametrize("is_read", [False, True])
def test_a_client_that_has_gone_is_sent_nothing(is_read: bool) -> None:
    replicas, sent = Replicas([...]), list[Any]()
    given = [{"type": "http.request", "body": CHAT.body}] if is_read else []

    async def receive() -> Any:
        return given.pop() if given else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT.path, "headers": [], "query_string": b""}
    asyncio.run(Forwarder(replicas.ask, replicas.count, Settings())(scope, receive, send))
    assert (sent, replicas.cancelled) == ([], int(is_read))


def test_the_ingress_checks_keys_and_hosts_before_a_replica_is_asked() -> None:
    def status(settings: Settings, *headers: tuple[bytes, bytes], path: str = "/v1/models") -> int:
        ingress = Ingress(None, settings)  # type: ignore[arg-type]
        replicas = Replicas([JSON, body("{}")])
        ingress._ask = replicas.ask  # type: ignore[method-assign]
        app = ingress.__serve_build_asgi_app__()

        async def first() -> int:
            found = [message async for message in messages(app, Call("GET", path, headers=headers))]
            assert (found[0]["status"] == 200) == bool(replicas.calls)
            assert all(name != b"authorization" for call, _ in replicas.calls for name, _ in call.headers)
            return int(found[0]["status"])

        return asyncio.run(first())

    key = "a-key-of-the-tests-0123456789"
    keyed = Settings(host="0.0.0.0", api_keys=(key,))
    assert status(keyed) == 401
    assert status(keyed, (b"authorization", b"Bearer " + b"x" * 20)) == 401
    assert status(keyed, (b"authorization", f"Bearer {key}".encode())) == 200
    assert status(keyed, path="/health") == 200
    assert status(Settings()) == 200


def test_turns_of_a_conversation_go_to_one_replica() -> None:
    def session(*headers: tuple[bytes, bytes], path: str = "/", **given: Any) -> str | None:
        return session_of(Call("POST", path, json.dumps(given).encode(), headers))

    system, hello = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}
    first = session(messages=[system, hello])
    turn = [system, hello, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Bye"}]
    assert first is not None and first == session(messages=turn, temperature=1)
    assert first != session(messages=[system, {"role": "user", "content": "Hallo"}])
    response = partial(session, path="/v1/responses")
    asked = response(instructions="Be brief.", input="Hello")
    assert asked is not None and asked == response(instructions="Be brief.", input=[hello, *turn[2:]])
    assert asked != response(instructions="Be long.", input="Hello")
    assert first != session(messages=[hello]) != session(messages=[hello], tools=[{}])
    assert session(prompt="a" * 300) == session(prompt="a" * 400) != session(prompt="b")
    assert session(input="vectors") is None
    named = (b"x-session-id", b"mine")
    assert session(named, messages=[hello]) == session(named, prompt="x")
    for data in (b"", b"[]", b"{", b'{"messages": [1]}', b"\xff", b"[" * 100_000):
        assert session_of(Call("POST", "/", data)) is None


def test_numbers_of_replicas_are_told_apart() -> None:
    page = '# HELP exaone_steps_total Steps\n# TYPE exaone_steps_total counter\nexaone_steps_total{kind="a"} %d\n'
    text = merged({"one": page % 3, "two": page % 4}).decode()
    assert 'exaone_steps_total{kind="a",replica="one"} 3.0' in text
    assert 'exaone_steps_total{kind="a",replica="two"} 4.0' in text
    assert text.count("# TYPE") == 1


def test_a_config_file_is_read_strictly(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-the-tests-0123456789\n")
    keys.chmod(0o600)
    more = {"prefill_threshold": 16, "batch_graph": True, "prompt_lookup": "off"}
    made = build(
        {"artifact": "/models/out", "replicas": 1, "max_replicas": 3, "slots": 2, "api_key_file": str(keys), **more}
    )
    [model] = made._bound_deployment.init_args[:1]
    deployed = model._bound_deployment
    artifact, _, settings, loading = deployed.init_args
    assert (artifact, loading.slots, loading.threads) == ("/models/out", 2, 1)
    assert (loading.graphs, loading.prompt_lookup) == (GraphChoice(True, 16, True), "off")
    assert (settings.model_name, settings.api_keys) == ("out", ())
    assert made._bound_deployment.init_args[1].api_keys
    config = deployed._deployment_config
    assert (config.max_ongoing_requests, config.autoscaling_config.max_replicas) == (3, 3)
    for wrong in (
        {},
        {"artifact": 3},
        {"artifact": "x", "slot": 1},
        {"artifact": "x", "prompt_lookup": "always"},
        {"artifact": "x", "replicas": 3, "max_replicas": 2},
    ):
        with pytest.raises(UnsupportedOptionError, match="args"):
            build(wrong)
    with pytest.raises(UnsupportedOptionError, match="the model is called ''; choose a name of 1 to"):
        build({"artifact": "x", "model_name": ""})
    with pytest.raises(KeyFileError):
        build({"artifact": "x", "api_key_file": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("serve", "--replicas", "2"), "are for --ray"),
        (("serve", "--ray", "--replicas", "3", "--max-replicas", "2"), "--max-replicas is 2, below --replicas"),
        (("batch", "in.jsonl", "out.jsonl", "--replicas", "2"), "--replicas is for --ray"),
    ],
)
def test_options_of_replicas_are_for_ray(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").touch()
    result = CliRunner().invoke(cli, [arguments[0], "artifact", *arguments[1:]])
    assert result.exit_code == 2 and told in result.stderr
