"""What the server says of itself: its model, its health, its numbers, and the page to talk to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from ..served import Served

__all__ = ["health_routes", "server_routes"]

_PAGE = Path(__file__).parents[1] / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def server_routes(served: Served) -> APIRouter:
    """The paths, of a model that is served."""
    router = APIRouter()

    def described() -> dict[str, Any]:
        name = served.settings.model_name
        return {"id": name, "object": "model", "created": served.created, "owned_by": "exaone-export"}

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [described()]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """The model of a name."""
        served.check_model(name)
        return described()

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return PlainTextResponse(served.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def health_routes(served: Served) -> APIRouter:
    """The paths that need no key: of the server's health, and of the page."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @router.get("/ready", responses={503: {"description": "The server is stopping, or its engine has failed"}})
    async def ready() -> Response:
        """Whether requests are taken."""
        state = served.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    def add_page(path: str, file: str, media_type: str) -> None:
        @router.get(path, include_in_schema=False)
        async def page() -> Response:
            """Of the page to talk to the model; it holds nothing of the model or its users."""
            return FileResponse(_PAGE / file, media_type=media_type, headers={"content-security-policy": _POLICY})

    add_page("/", "index.html", "text/html")
    add_page("/page.css", "page.css", "text/css")
    add_page("/page.js", "page.js", "text/javascript")
    return router
