"""Vectors of an export with the head ``hidden-states``."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TINY
from tests.runtime.serve.conftest import KEY, started


@pytest.fixture(scope="module")
def vectors(export_artifact: Callable[..., Path]) -> Iterator[Any]:
    import openai

    artifact = export_artifact(TINY, "ort-cpu", max_length=512, head="hidden-states")
    server = started(artifact, "--model-name", "tiny")
    yield openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0, timeout=30)
    server.process.terminate()
    server.wait()


def test_vectors_have_unit_length_and_equal_those_of_predict(
    vectors: Any, export_artifact: Callable[..., Path]
) -> None:
    from exaone_export.artifact.reader import Artifact
    from exaone_export.runtime.predict.lines import given_texts
    from exaone_export.runtime.predict.options import Options
    from exaone_export.runtime.predict.run import predict

    texts = ("Where is Mina?", "Hi! " * 100)
    found = vectors.embeddings.create(model="tiny", input=list(texts), encoding_format="float").data
    artifact = Artifact.open(export_artifact(TINY, "ort-cpu", max_length=512, head="hidden-states"))
    wanted = predict(artifact, given_texts(texts, "hidden-states"), Options(normalize=True))
    for each, line in zip(found, wanted, strict=True):
        assert np.allclose(each.embedding, line["vector"], atol=1e-4)
    short = vectors.embeddings.with_raw_response.create(
        model="tiny", input=texts[0], dimensions=16, encoding_format="base64"
    )
    data = np.frombuffer(base64.b64decode(short.http_response.json()["data"][0]["embedding"]), "<f4")
    first = np.array(found[0].embedding[:16])
    assert np.allclose(data, first / np.linalg.norm(first), atol=1e-5)
