"""The ingress: checks keys, hosts and sizes, and hands requests on to replicas; it has no model."""

from __future__ import annotations

from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from ..app import guards
from ..logs import start_log
from ..settings import Settings
from ..transport.in_process import Call
from .forwarding import Forwarder, Stream
from .merged_metrics import merged

__all__ = ["Ingress"]


class Ingress:
    """The application that Ray's proxies call.

    Args:
        replicas: Those that answer.
        settings: Of the server.
    """

    def __init__(self, replicas: DeploymentHandle, settings: Settings) -> None:
        start_log(as_json=settings.log_json)
        self._replicas, self._settings = replicas, settings

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """As Ray Serve asks for it."""
        forwarder = Forwarder(self._ask, self._count, self._settings)
        return Starlette(routes=[Mount("/", forwarder)], middleware=guards(self._settings))

    def _ask(self, call: Call, session: str | None) -> Stream:
        handle = self._replicas.options(stream=True)
        if session is not None:
            handle = handle.options(session_id=session)
        found: Stream = handle.answer.remote(call)
        return found

    async def _count(self) -> bytes:
        return merged(dict(await self._replicas.broadcast("metrics").results_async()))
