"""Clients that go while something is done for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from ..errors import ApiError

__all__ = ["GONE", "while_there"]

GONE = 499
"""The status of a request whose client has gone, which nobody is sent."""

_T = TypeVar("_T")


async def while_there(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Do something for a client, and cancel it when the client goes.

    Args:
        receive: Of the request, whose body was read.
        work: What is done.

    Returns:
        What it gives.

    Raises:
        ApiError: The client has gone.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiError(GONE, "the client has gone.")
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
