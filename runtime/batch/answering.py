"""Requests answered by the server's application in this process, without a socket between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from starlette.types import ASGIApp

from exaone_export.artifact.reader import Artifact

from ..serve.app import create_app
from ..serve.loading import Loading
from ..serve.run import open_served
from ..serve.settings import Settings
from ..serve.transport.in_process import Call, messages

__all__ = ["answer", "opened_app"]

_SECONDS = 86_400.0


@contextmanager
def opened_app(artifact: Artifact, model_name: str, loading: Loading, pooling: str) -> Iterator[ASGIApp]:
    """The application of an artifact, loaded inside the block.

    Args:
        artifact: The opened artifact.
        model_name: What requests call the model.
        loading: How it is loaded.
        pooling: Of vectors.

    Raises:
        ArtifactError: The artifact cannot be read.
        TargetError: It does not run here.
    """
    settings = Settings(model_name=model_name, request_seconds=_SECONDS, max_body_bytes=1 << 30, pooling=pooling)
    with ExitStack() as stack:
        served = open_served(artifact, settings, loading, stack)
        yield create_app(served)


async def answer(app: ASGIApp, url: str, body: bytes) -> tuple[int, Any]:
    """The status and the JSON body of a response.

    Args:
        app: Of `opened_app`.
        url: The path.
        body: JSON in UTF-8.
    """
    status, found = 500, bytearray()
    call = Call("POST", url, body, ((b"content-type", b"application/json"),))
    async for message in messages(app, call):
        status = message.get("status", status)
        found += message.get("body", b"")
    return status, json.loads(found)
