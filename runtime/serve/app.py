"""The application: its paths, and what every request passes."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from .errors import ERRORS, add_handlers
from .routes.chat import chat_routes
from .routes.completions import completion_routes
from .routes.embeddings import embedding_routes
from .routes.responses import response_routes
from .routes.server import health_routes, server_routes
from .served import Served
from .settings import Settings
from .transport.body_limit import BodyLimit
from .transport.observing import Observer
from .transport.security import HostCheck, KeyCheck

__all__ = ["create_app", "guards"]


def create_app(served: Served) -> FastAPI:
    """The ASGI application of a model."""
    settings = served.settings
    middleware = guards(settings, Middleware(Observer, lifecycle=served.lifecycle, metrics=served.metrics))
    app = FastAPI(
        title="exaone-export",
        version=importlib.metadata.version("exaone-export"),
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an address without what a proxy has before it, such as TLS
        middleware=middleware,
    )
    add_handlers(app)
    # It only describes the key; `KeyCheck` has seen it before.
    key = [Depends(HTTPBearer(auto_error=False, description="An API key of the server's"))] if settings.api_keys else []
    for routes in (chat_routes, completion_routes, response_routes, embedding_routes, server_routes):
        app.include_router(routes(served), dependencies=key, responses=ERRORS)
    app.include_router(health_routes(served))
    describe = app.openapi

    def described() -> dict[str, Any]:
        """The description, with the model's name, which is known here alone."""
        found = describe()
        for schema in found["components"]["schemas"].values():
            if "model" in schema.get("properties", {}):
                schema["properties"]["model"]["enum"] = [settings.model_name]
                schema["examples"] = [{**each, "model": settings.model_name} for each in schema.get("examples", ())]
        return found

    app.openapi = described  # type: ignore[method-assign]
    return app


def guards(settings: Settings, *observers: Middleware) -> list[Middleware]:
    """What refuses a request by where it comes from, and by its size.

    Args:
        settings: Of the server.
        observers: What sees all of that; a page of another origin may read what they answer themselves.
    """
    found = list[Middleware]()
    if settings.allow_origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allow_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # OpenAI's client for browsers sends some of its own
                expose_headers=["retry-after", "x-request-id"],
            )
        )
    found += observers
    if not settings.api_keys:
        found.append(Middleware(HostCheck))
    found.append(Middleware(KeyCheck, keys=settings.api_keys))
    found.append(Middleware(BodyLimit, most=settings.max_body_bytes))
    return found
