"""Who may use the server: API keys, and where a browser may come from."""

from __future__ import annotations

import hashlib
import hmac
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from exaone_export.errors import KeyFileError

from ..errors import ApiError

__all__ = ["KeyCheck", "read_api_keys"]

OPEN_PATHS = frozenset(("/", "/page.css", "/page.js", "/health", "/ready"))
"""Paths that need no key: they tell nothing about the model or its users."""

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_MOST_BYTES = 64 << 10
_LEAST_CHARACTERS = 16


class HostCheck:
    """Answers 400 to a request to another name than this machine's.

    Without keys, a web page elsewhere must not reach the server through a name that it resolves to this machine.

    Args:
        app: What other requests go to.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        if scope["type"] != "http" or _name_of(host := Headers(scope=scope).get("host", "")) in _LOCAL_NAMES:
            await self._app(scope, receive, send)
            return
        message = (
            f"the request is for the host {host!r:.100}, and without API keys a server is for localhost alone; start "
            f"it with --api-key-file, or let a proxy send Host: localhost."
        )
        await ApiError(400, message, code="invalid_host").response(scope, receive, send)


def _name_of(host: str) -> str | None:
    """Of a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class KeyCheck:
    """Answers 401 to every request without a key, but for `OPEN_PATHS`.

    Args:
        app: What a request with a key goes to.
        keys: Any of them opens it; without keys everything is open.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app, self._digests = app, [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an application."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or not self._digests or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "the API key is missing or wrong; send it as: Authorization: Bearer KEY.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
        await error.response(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = _digest(key.strip().encode("latin-1"))
        # Every key is compared, and all of a digest, so that the time tells nothing.
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(found)


def read_api_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line; blank lines are skipped.

    Raises:
        KeyFileError: It cannot be read, others may read it, or a key is short or not printable ASCII.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise KeyFileError(f"{path} is not a file of keys; write one key a line.")
        text = path.read_text("ascii")
    except OSError as cause:
        raise KeyFileError(f"{path} cannot be read ({cause.strerror}); check the path and its permissions.") from cause
    except UnicodeDecodeError as cause:
        raise KeyFileError(f"{path} holds a key that is not ASCII; use letters, digits and punctuation.") from cause
    if status.st_mode & 0o077:
        raise KeyFileError(f"{path} can be read by others; run: chmod 600 {path}.")
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    return check_keys(keys, str(path))


def check_keys(keys: tuple[str, ...], source: str) -> tuple[str, ...]:
    """Raise unless all are keys that a header can carry.

    Raises:
        KeyFileError: There is none, or one is short or not printable ASCII.
    """
    if not keys:
        raise KeyFileError(f"{source} holds no key; write one, for example the output of: openssl rand -hex 32.")
    for key in keys:
        if len(key) < _LEAST_CHARACTERS:
            raise KeyFileError(
                f"{source} holds a key of {len(key)} characters, and a key has at least {_LEAST_CHARACTERS}; use the "
                f"output of: openssl rand -hex 32."
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise KeyFileError(f"{source} holds a key with a space or a character that is not printable ASCII.")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
