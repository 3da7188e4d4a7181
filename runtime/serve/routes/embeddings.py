"""``POST /v1/embeddings``."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from exaone_export.errors import PromptError

from ..errors import ApiError
from ..protocol.embeddings import EmbeddingRequest
from ..served import Served, note
from ..transport.disconnects import while_there
from ..transport.strict_requests import StrictRoute

__all__ = ["embedding_routes"]


def embedding_routes(served: Served) -> APIRouter:
    """The path, of a model that is served."""
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/embeddings")
    async def create(request: Request, body: EmbeddingRequest) -> Response:
        """Give the vectors of texts."""
        served.check_model(body.model)
        embedder, size = served.embedder, body.dimensions
        if embedder is None:
            message = "the model generates text; for vectors, serve an export with --head hidden-states."
            raise ApiError(404, message, code="unsupported_path")
        if size is not None and size > embedder.size:
            message = f"dimensions is {size}, and the model has {embedder.size}; ask for at most as many."
            raise ApiError(400, message, param="dimensions")
        lifecycle, deadline = served.lifecycle, served.lifecycle.deadline()
        encoding = asyncio.to_thread(lambda: [embedder.encode(text) for text in body.input])
        try:
            texts = await while_there(request.receive, lifecycle.run(encoding, deadline))
        except PromptError as error:
            raise ApiError(400, str(error), param="input", code="invalid_value") from error
        tokens = sum(map(len, texts))
        for text in texts:
            served.check_prompt(len(text), embedder.max_length + 1, "input")
        vectors = await while_there(request.receive, lifecycle.run(embedder.embed(texts), deadline))
        note(request, prompt_tokens=tokens)
        data = [
            {"object": "embedding", "index": index, "embedding": _written(vector, body)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})

    return router


def _written(vector: np.ndarray, body: EmbeddingRequest) -> Any:
    """The first dimensions, at unit length again."""
    if body.dimensions is not None:
        vector = vector[: body.dimensions]
        vector = vector / max(float(np.linalg.norm(vector)), 1e-30)
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.astype(float).tolist()
