"""``POST /v1/embeddings``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ..settings import LONGEST_NAME
from .base import Strict
from .texts import Inputs

__all__ = ["EmbeddingRequest"]


class EmbeddingRequest(Strict):
    """Texts whose vectors are wanted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["Hi!"]}]})

    input: Inputs
    model: Annotated[str, Field(max_length=LONGEST_NAME)]
    dimensions: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
