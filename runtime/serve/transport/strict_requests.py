"""Request bodies, read within a time and parsed as strict JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from exaone_export.errors import PromptError
from exaone_export.files.strict_json import parse_object
from exaone_export.files.unicode_text import check_unicode

from ..errors import ApiError

__all__ = ["StrictRoute"]

BODY_SECONDS = 20
"""That a client has to send a request's body."""


class _StrictRequest(Request):
    async def body(self) -> bytes:
        """The bytes.

        Raises:
            ApiError: They did not come in time.
        """
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await super().body()
        except TimeoutError as cause:
            message = f"the request's body did not come within {BODY_SECONDS} seconds; send it faster."
            raise ApiError(408, message, code="slow_request", headers={"connection": "close"}) from cause

    async def json(self) -> Any:
        """The object.

        Raises:
            ApiError: The body is not strict JSON in UTF-8, or is compressed.
        """
        data = await self.body()
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            message = f"the request has the Content-Encoding {encoding!r:.40}; send it as it is, without one."
            raise ApiError(415, message, code="unsupported_encoding", headers={"accept-encoding": "identity"})
        try:
            found = parse_object(data, name="the request", error=PromptError)
            if b"\\u" in data:  # which can write half of a surrogate pair
                check_unicode(json.dumps(found, ensure_ascii=False), "the request", PromptError)
        except PromptError as cause:
            raise ApiError(400, str(cause).replace("correct the file", "correct it"), code="invalid_json") from cause
        return found


class StrictRoute(APIRoute):
    """A path whose requests have bodies of strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, of a request that is read strictly."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly
