"""The runtimes of a small random hybrid, beside the transformers model they must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

MAX_LENGTH = 256
VOCAB = 97


@pytest.fixture(scope="session")
def reference(random_hybrid: Path) -> Any:
    from transformers import Exaone4ForCausalLM

    return Exaone4ForCausalLM.from_pretrained(random_hybrid).eval()


@pytest.fixture(scope="session")
def artifacts(random_hybrid: Path, export_artifact: Callable[..., Path]) -> dict[str, Path]:
    """By target; their local layers hold 16, 8 and 16 rows, the last ones with room for a step of 16 behind them."""
    targets = ("ort-cpu", "onnx", "tensorrt-rtx")
    return {target: export_artifact(random_hybrid, target, MAX_LENGTH, "float32") for target in targets}


@pytest.fixture(scope="session", params=["ort-cpu", "onnx", "engine"])
def loaded(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Iterator[Any]:
    """A model behind each kind of session; that of engines has one whose steps run on the CPU."""
    from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
    from tests.runtime.sessions.engine_double import open_with_engine_session

    if request.param == "engine":
        with open_with_engine_session(artifacts["tensorrt-rtx"]) as model:
            yield model
    else:
        with ExaoneForCausalLM.from_pretrained(artifacts[request.param], threads=1) as model:
            yield model


@pytest.fixture
def model(loaded: Any) -> Iterator[Any]:
    """The loaded artifact with prompts cut into chunks of 7, so that no test stays within one step."""
    loaded.prefill_chunk_size = 7
    yield loaded
    loaded.prefill_chunk_size = 512


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random token ids, special ones left out."""
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def left_padded(columns: int, pads: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, ``pads`` columns of padding on the left of each row."""
    mask = (torch.arange(columns) >= torch.tensor(pads)[:, None]).long()
    return tokens(len(pads), columns, seed=seed) * mask, mask
