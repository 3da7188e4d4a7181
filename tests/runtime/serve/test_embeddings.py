"""Vectors of an export with the head ``hidden-states``."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import time
import urllib.request
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
    server = started(artifact, "--model-name", "tiny", "--queue", "1")
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


def test_as_many_texts_are_taken_at_once_as_openai_takes(vectors: Any) -> None:
    import openai

    assert len(vectors.embeddings.create(model="tiny", input=[[5]] * 300, dimensions=2).data) == 300
    with pytest.raises(openai.BadRequestError, match="there are 2049 of them, and at most 2048 may be"):
        vectors.embeddings.create(model="tiny", input=[[5]] * 2049)


def test_a_client_that_goes_is_not_worked_for(vectors: Any) -> None:
    address, given = vectors.base_url.netloc.decode(), {"authorization": f"Bearer {KEY}"}
    gone = http.client.HTTPConnection(address, timeout=20)
    body = json.dumps({"model": "tiny", "input": [[5] * 400] * 256})
    gone.request("POST", "/v1/embeddings", body, {**given, "content-type": "application/json"})
    time.sleep(0.1)
    gone.close()
    end, counted = time.monotonic() + 10, 'exaone_http_requests_total{method="POST",path="/v1/embeddings",status="499"}'
    while True:
        request = urllib.request.Request(f"http://{address}/metrics", headers=given)
        with urllib.request.urlopen(request, timeout=20) as response:
            if counted in response.read().decode():
                break
        assert time.monotonic() < end
        time.sleep(0.05)


def test_calls_take_turns_and_the_queue_has_its_length(export_artifact: Callable[..., Path]) -> None:
    from exaone_export.artifact.reader import Artifact
    from exaone_export.errors import EngineBusyError
    from exaone_export.runtime.serve.embedding import Embedder

    artifact = Artifact.open(export_artifact(TINY, "ort-cpu", max_length=512, head="hidden-states"))
    embedder, long = Embedder(artifact, threads=1, queue=1, pooling="last"), [[5] * 400] * 10_000

    async def run() -> None:
        one, two = (asyncio.ensure_future(embedder.embed(long)) for _ in range(2))
        await asyncio.sleep(0)
        with pytest.raises(EngineBusyError, match="2 requests run or wait"):
            await embedder.embed([[5]])
        two.cancel()
        await asyncio.wait([two])
        assert len(await embedder.embed([[5], [6]])) == 2  # beside the one that is left
        one.cancel()
        await asyncio.wait([one])

    asyncio.run(run())
    embedder.close()
