"""The suite for GPUs, as far as it goes without one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import ROOT, TINY


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_suite", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so() -> None:
    found = subprocess.run([sys.executable, ROOT / "benchmarks" / "gpu.py"], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout)["gpu"] is None


def test_parity_passes_on_the_graph_of_the_engine(
    gpu: ModuleType, export_artifact: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks themselves, on the artifact that an engine is built from."""
    folder = export_artifact(TINY, "tensorrt-rtx", 1024, prefill_chunk=64)
    monkeypatch.setattr(gpu, "prepare", lambda *_: folder)
    found = gpu.parity("tensorrt-rtx", tmp_path)
    assert "failed" not in found
    assert found["tasks"] == {"recall": 1.0, "arithmetic": 1.0}
    assert found["padded batch of 4 equals single rows"]
    assert 0 < found["kl"] <= gpu.KL_LIMIT
    monkeypatch.setattr(gpu, "KL_LIMIT", found["kl"] / 2)
    monkeypatch.setattr(gpu, "task_answers", lambda _model: {})
    assert gpu.parity("tensorrt-rtx", tmp_path)["failed"] == "the answers depart from PyTorch's"


def test_a_part_that_fails_gives_its_reason(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(gpu.torch.cuda, "empty_cache", lambda: None)
    assert gpu.attempt(broken)["failed"] == "RuntimeError: no kernel"
    assert gpu.attempt(lambda: {"decode tok/s": 1.0}).keys() == {"decode tok/s", "seconds"}
