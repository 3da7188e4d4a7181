"""A client of OpenAI's protocol that times a stream's events: a connection for each request, and no pool between."""

from __future__ import annotations

import functools
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

__all__ = ["Server", "ServerError"]


class ServerError(Exception):
    """A response that does not answer a request.

    Args:
        status: Of HTTP; 0 where the connection or the stream broke off.
        message: What the server says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Server:
    """Where requests go.

    Attributes:
        address: Such as ``http://127.0.0.1:8000``.
        key: An API key; None where the server takes none.
    """

    address: str
    key: str | None = None

    async def read(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The body of a response; a GET without a body of its own.

        Raises:
            ServerError: The status is not 200, or the connection broke off.
        """
        async with self._response(path, body) as response:
            return await response.aread()

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream, as they come, until it says that it is done.

        Raises:
            ServerError: The status is not 200, an event tells an error, or the stream broke off.
        """
        async with self._response(path, {**body, "stream": True}) as response:
            rest = b""
            async for piece in response.aiter_bytes():
                # A text's lines would end at U+2028 too, which JSON may hold as it is.
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data: "):
                        continue
                    if (data := line.removeprefix(b"data: ").strip()) == b"[DONE]":
                        return
                    event: dict[str, Any] = json.loads(data)
                    if "error" in event:
                        raise ServerError(200, str(event["error"].get("message")))
                    yield event
        raise ServerError(0, "the stream broke off")

    @asynccontextmanager
    async def _response(self, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[httpx2.Response]:
        headers = {"connection": "close"} | ({} if self.key is None else {"authorization": f"Bearer {self.key}"})
        method = "GET" if body is None else "POST"
        client = httpx2.AsyncClient(
            base_url=self.address, headers=headers, timeout=None, trust_env=False, verify=_context()
        )
        try:
            async with client, client.stream(method, path, json=body) as response:
                if response.status_code != 200:
                    raise ServerError(response.status_code, (await response.aread()).decode(errors="replace")[:300])
                yield response
        except httpx2.TransportError as cause:
            raise ServerError(0, f"the connection broke off ({str(cause) or type(cause).__name__})") from cause


@functools.cache
def _context() -> ssl.SSLContext:
    """Made once: reading the system's certificates takes longer than many a request, and would be measured with it."""
    return ssl.create_default_context()
