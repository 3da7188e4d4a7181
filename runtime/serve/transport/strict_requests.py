"""Request bodies, read within a time and parsed as strict JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from exaone_export.errors import PromptError
from exaone_export.files.strict_json import parse_object

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
            ApiError: The body is not strict JSON in UTF-8.
        """
        data = await self.body()
        try:
            found = parse_object(data, name="the request", error=PromptError)
            if b"\\u" in data:
                _check_text(found)
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


def _check_text(value: Any) -> None:
    """Raise for half of a surrogate pair, which JSON can write and no UTF-8 can hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as cause:
            raise PromptError(
                "the request holds half of a surrogate pair, which is not Unicode; write the whole character."
            ) from cause
    elif isinstance(value, dict | list):
        for each in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_text(each)
