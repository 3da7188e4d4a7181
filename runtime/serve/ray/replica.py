"""One replica: a process that has loaded the artifact, and answers what the ingress hands on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack

from ray import serve
from starlette.types import Message

from exaone_export.artifact.reader import Artifact

from ..app import create_app
from ..loading import Loading
from ..logs import start_log
from ..run import open_served
from ..settings import Settings
from ..transport.in_process import Call, messages

__all__ = ["Replica"]


class Replica:
    """The server's application without a socket.

    Args:
        artifact: A folder, or an artifact on the Hugging Face hub, that this machine can open.
        trusted_key: The public key that must have signed it.
        settings: Of the server; keys and origins are the ingress's.
        loading: How it is loaded.

    Raises:
        ArtifactError: The artifact cannot be read.
        TargetError: It does not run here.
    """

    def __init__(self, artifact: str, trusted_key: str | None, settings: Settings, loading: Loading) -> None:
        start_log(as_json=settings.log_json)
        opened = Artifact.open(artifact, trusted_key=trusted_key, weights_later=True)
        self._stack = ExitStack()
        served = open_served(opened, settings, loading, self._stack)
        self._app, self._metrics = create_app(served), served.metrics

    async def answer(self, call: Call) -> AsyncIterator[Message]:
        """The messages of a response, as they come."""
        async for message in messages(self._app, call):
            yield message

    async def metrics(self) -> tuple[str, str]:
        """Its own name, and its numbers for Prometheus."""
        return serve.get_replica_context().replica_id.unique_id, self._metrics.text().decode()

    async def check_health(self) -> None:
        """Raise unless the application takes requests; Ray replaces a replica that does not."""
        async for message in messages(self._app, Call("GET", "/ready")):
            if message.get("status", 200) != 200:
                raise RuntimeError(f"/ready answers {message['status']}")

    async def process(self) -> int:
        """The process's id."""
        return os.getpid()
