"""Sessions of graphs with several outputs, or outputs of other shapes than a vocabulary's logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.mirror.heads import open_model
from exaone_export.runtime.sessions import onnxruntime
from exaone_export.runtime.sessions.cuda_graphs import CudaGraphSession
from tests.conftest import SaveModel
from tests.runtime.conftest import tokens
from tests.runtime.mirror.test_dense_generation import export_for_cpu
from tests.runtime.sessions.capturing import CapturingSession
from tests.runtime.sessions.engine_double import open_with_engine_session

PROMPT, SINGLE = 20, 12


def outputs(model: Any) -> list[torch.Tensor]:
    """Of a batch's prompt, and then of single tokens."""
    cache = model.new_cache()
    found = [model.outputs(tokens(2, PROMPT), cache=cache)]
    found += [model.outputs(tokens(2, 1, seed=seed), cache=cache) for seed in range(SINGLE)]
    return [torch.cat(parts, 1) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("kind", ["question-answering", "hidden-states", "sequence-classification"])
def test_an_engine(kind: str, save_model: SaveModel, export_artifact: Callable[..., Path]) -> None:
    more = {"hidden_states": True} if kind == "hidden-states" else {}
    artifact = export_artifact(save_model(head=kind, num_labels=3), "tensorrt-rtx", 64, "float32", **more)
    with open_model(Artifact.open(artifact), threads=1) as plain, open_with_engine_session(artifact) as engine:
        wanted, found = outputs(plain), outputs(engine)
        assert len(found) == {"question-answering": 2, "hidden-states": 5}.get(kind, 1)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_single_tokens_as_captured_graphs(
    save_model: SaveModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_for_cpu(save_model(head="question-answering"), tmp_path / "artifact", "float32", monkeypatch)
    artifact = Artifact.open(folder)
    with open_model(artifact, threads=1) as plain:
        wanted = outputs(plain)
    load = onnxruntime.load_graph
    monkeypatch.setattr(onnxruntime, "load_graph", lambda *given, **options: CapturingSession(load(*given, **options)))
    with CudaGraphSession(artifact, threads=1) as session:
        found = outputs(type(plain)(session, plain.config))
        assert session._session.replays == SINGLE
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
