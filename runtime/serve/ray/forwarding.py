"""Requests handed on to replicas, and repeated on another one where a replica has gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.types import Message, Receive, Scope, Send

from ..errors import ApiError, error_of
from ..settings import Settings
from ..transport.disconnects import GONE, while_there
from ..transport.in_process import Call
from ..transport.strict_requests import BODY_SECONDS
from .affinity import session_of

__all__ = ["Forwarder", "Stream"]

_ATTEMPTS = 3
_PAUSE_SECONDS = 0.2
_SPARE_SECONDS = 5.0
"""A replica ends an answer when its time is over; the ingress waits a little longer than it."""

_LOCAL_HEADERS = frozenset(
    (b"authorization", b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"transfer-encoding")
)
"""Of a connection, or for the ingress alone."""

_NONE: Mapping[str, str] = {}
_BEGINNINGS = ("response.created", "response.in_progress")
"""Events of a response before those of its answer."""

_log = logging.getLogger(__name__)


class Stream(Protocol):
    """The messages of a response from a replica."""

    def __aiter__(self) -> AsyncIterator[Message]:
        """As they come."""

    def cancel(self) -> None:
        """Let the replica know that nobody waits for more."""


class Forwarder:
    """An ASGI application that sends nothing before it has something to send: until then a request can be repeated.

    A response that is not a stream is sent when it is whole. A stream's answer begins with the first event that tells
    something of it; if its replica goes after that, it ends with an event that tells the error. Comments, which keep
    the connection open meanwhile, are sent as they come, and are nothing that another replica would repeat.

    Args:
        ask: Gives a request to a replica; requests of the same session go to the same one while it has room.
        count: Gives the numbers of all replicas for Prometheus.
        settings: Of the server.
    """

    def __init__(
        self, ask: Callable[[Call, str | None], Stream], count: Callable[[], Awaitable[bytes]], settings: Settings
    ) -> None:
        self._ask, self._count, self._settings = ask, count, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        response = _Response(send)
        limit = self._settings.request_seconds + _SPARE_SECONDS
        try:
            async with asyncio.timeout(limit):
                if scope["path"] == "/metrics":
                    await response.send_whole(await self._count(), b"text/plain; version=0.0.4; charset=utf-8")
                else:
                    call = await self._read(scope, receive)
                    await while_there(receive, self._forward(call, response))
        except TimeoutError:
            await response.fail(
                ApiError(504, "the request took too long; ask for less at a time.", code="request_timeout")
            )
        except Exception as cause:  # noqa: BLE001 - every failure is told to the client
            error = _error_of(cause)
            if error.status != GONE:
                await response.fail(error)

    async def _forward(self, call: Call, response: _Response) -> None:
        session = session_of(call)
        for attempt in range(1, _ATTEMPTS + 1):
            stream = self._ask(call, session)
            try:
                async for message in stream:
                    await response.take(message)
            except RayError as error:
                if response.begun or attempt == _ATTEMPTS or not _is_lost(error):
                    raise
                _log.warning("a replica has gone (%s); the request is repeated", type(error).__name__)
                response.drop()
                await asyncio.sleep(_PAUSE_SECONDS * attempt)
            else:
                return
            finally:
                stream.cancel()  # of one that has ended, it does nothing

    async def _read(self, scope: Scope, receive: Receive) -> Call:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(GONE, "the client has gone.")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError as cause:
            raise ApiError(408, f"the request's body did not come within {BODY_SECONDS} seconds.") from cause
        headers = tuple((name, value) for name, value in scope["headers"] if name not in _LOCAL_HEADERS)
        return Call(scope["method"], scope["path"], bytes(body), headers, scope["query_string"])


class _Response:
    """What a client is sent, held back until there is something to say.

    Attributes:
        begun: Whether a part of the answer was sent.
    """

    def __init__(self, send: Send) -> None:
        self._send, self._held = send, list[Message]()
        self._is_stream = self._is_streaming = self.begun = False  # of this replica; as far as the client knows

    def drop(self) -> None:
        """Forget what is held back."""
        self._held, self._is_stream = [], False

    async def take(self, message: Message) -> None:
        """A message of a replica."""
        body = message.get("body", b"")
        if message["type"] == "http.response.start":
            self._is_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
        self._held.append(message)
        if self._is_stream and not self.begun and body.startswith(b":"):
            start, *rest, comment = self._held
            self._held = [start, *rest]
            await self._pass([start, comment])
            return
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self.begun or is_last or (self._is_stream and _tells_something(body)):
            self.begun = True
            held, self._held = self._held, []
            await self._pass(held)

    async def _pass(self, held: list[Message]) -> None:
        """Send messages; the status once, and behind that of a stream a refusal as an event."""
        for each in held:
            if each["type"] == "http.response.start":
                if self._is_streaming:
                    continue
                self._is_streaming = self._is_stream
                # Ray's proxy adds the same: it is in the request that the replica was given.
                each = {**each, "headers": [found for found in each["headers"] if found[0] != b"x-request-id"]}
            elif self._is_streaming and not self._is_stream:
                each = {**each, "body": b"data: " + each["body"] + b"\n\n"}
            await self._send(each)

    async def send_whole(self, body: bytes, kind: bytes, status: int = 200, more: Mapping[str, str] = _NONE) -> None:
        """A response of its own, with more headers."""
        self.begun = True
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in more.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: ApiError) -> None:
        """Tell an error: as a response, or as the last event of a stream that the client reads."""
        body = json.dumps(error.body, ensure_ascii=False).encode()
        if self._is_streaming:
            await self._send({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})
        elif not self.begun:
            await self.send_whole(body, b"application/json", error.status, error.headers or _NONE)


def _tells_something(event: bytes) -> bool:
    """Whether it is more than the beginning of an answer, which another replica would begin as well."""
    data = next((line for line in event.splitlines() if line.startswith(b"data: {")), None)
    if data is None:
        return bool(event)
    try:
        found: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
    except ValueError:
        return True
    if found.get("type") in _BEGINNINGS:
        return False
    if not (choices := found.get("choices")):
        return True
    return any(each.get("finish_reason") or _says(each.get("delta")) or each.get("text") for each in choices)


def _says(delta: dict[str, Any] | None) -> bool:
    return any(value for name, value in (delta or {}).items() if name != "role")


def _is_lost(error: RayError) -> bool:
    """Whether a replica has gone; what its code raises is a `RayTaskError`."""
    return not isinstance(error, RayTaskError)


def _error_of(error: Exception) -> ApiError:
    if isinstance(error, BackPressureError):
        return ApiError(429, "the queue is full; try again later.", code="engine_busy", headers={"retry-after": "1"})
    if isinstance(error, DeploymentUnavailableError) or (isinstance(error, RayError) and _is_lost(error)):
        _log.error("%s", type(error).__name__, exc_info=error)
        return ApiError(503, "the replica that answered has gone; send the request again.", code="replica_lost")
    return error_of(error)
