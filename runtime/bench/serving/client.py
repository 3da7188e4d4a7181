"""The least HTTP client that can time a stream's events: a connection a request, and nothing in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Server", "ServerError"]

_MOST_HEADERS = 100


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
        async with self._opened(path, body) as lines:
            return b"".join([line async for line in lines])

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream, as they come, until it says that it is done.

        Raises:
            ServerError: The status is not 200, an event tells an error, or the stream broke off.
        """
        async with self._opened(path, {**body, "stream": True}) as lines:
            async for line in lines:
                if not line.startswith(b"data: "):
                    continue
                if (data := line[len(b"data: ") :].strip()) == b"[DONE]":
                    return
                event: dict[str, Any] = json.loads(data)
                if "error" in event:
                    raise ServerError(200, str(event["error"].get("message")))
                yield event
        raise ServerError(0, "the stream broke off")

    @asynccontextmanager
    async def _opened(self, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[AsyncIterator[bytes]]:
        where = urlsplit(self.address)
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"host": where.netloc, "connection": "close", "content-length": str(len(data))}
        if body is not None:
            headers["content-type"] = "application/json"
        if self.key is not None:
            headers["authorization"] = f"Bearer {self.key}"
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        try:
            reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 24)
        except OSError as cause:
            raise ServerError(0, f"no connection ({cause.strerror})") from cause
        try:
            writer.write(f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
            await writer.drain()
            status, chunked = await _read_head(reader)
            lines = _lines(reader, chunked)
            if status != 200:
                raise ServerError(status, b"".join([line async for line in lines]).decode(errors="replace")[:300])
            yield lines
        except (OSError, asyncio.IncompleteReadError) as cause:
            raise ServerError(0, "the connection broke off") from cause
        finally:
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    status, chunked = int((await reader.readuntil(b"\r\n")).split()[1]), False
    for _ in range(_MOST_HEADERS):
        line = await reader.readuntil(b"\r\n")
        if line == b"\r\n":
            break
        chunked = chunked or line.lower().replace(b" ", b"").startswith(b"transfer-encoding:chunked")
    return status, chunked


async def _lines(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    """The lines of a body, with their ends."""
    if not chunked:
        while line := await reader.readline():
            yield line
        return
    rest = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
