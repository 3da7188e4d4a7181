from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ArtifactError
from exaone_export.runtime.core.buffers import CacheBuffers
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.sessions import mapped_weights
from exaone_export.runtime.sessions.mapped_weights import MappedWeights
from exaone_export.runtime.sessions.onnxruntime import OnnxRuntimeSession

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mapped_weights, "_SMALLEST_BYTES", SIZE)
    (tmp_path / "weights").write_bytes(bytes(range(256)) * (SIZE // 256))
    return tmp_path / "weights"


def resident_bytes(path: Path) -> list[int]:
    """Of each of the file's mappings in this process."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.endswith(str(path))]
    return [int(next(line for line in lines[i:] if line.startswith("Rss:")).split()[1]) * 1024 for i in starts]


def test_pages_are_given_back_and_found_again(file: Path) -> None:
    weights = MappedWeights(file)
    for _ in range(2):
        assert weights._map[:] == file.read_bytes()
        assert resident_bytes(file) == [SIZE]
        weights.release()
        assert resident_bytes(file) == [0]


def test_pages_are_given_back_while_a_block_reads_them(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, released = MappedWeights(file), threading.Semaphore(0)
    monkeypatch.setattr(mapped_weights, "_SECONDS", 0.001)
    monkeypatch.setattr(weights, "release", lambda: (MappedWeights.release(weights), released.release()))
    with pytest.raises(ValueError, match="cannot be read"), weights.releasing():
        for _ in range(3):
            assert weights._map[:] == file.read_bytes()
            assert released.acquire(timeout=60)
        raise ValueError("cannot be read")
    assert resident_bytes(file) == [0]
    assert not [each for each in threading.enumerate() if each.name == "exaone-weights"]


def test_pages_are_given_back_behind_a_number_of_tokens(file: Path) -> None:
    weights, left = MappedWeights(file), []
    for tokens in (1, 30, 1, 128, 31, 1):
        assert weights._map[:] == file.read_bytes()
        weights.release_after(tokens)
        left += resident_bytes(file)
    assert left == [SIZE, SIZE, 0, 0, SIZE, 0]


def test_the_weights_outlast_a_step_that_is_running(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unmapped under it, they would end the process."""
    artifact = Artifact.open(artifacts["ort-cpu"])
    before = len(resident_bytes(artifact.data_path))
    session, found = OnnxRuntimeSession(artifact), list[int]()
    steps = type(session._session)
    real = steps.run_with_iobinding

    def run(*arguments: Any) -> None:
        session.close()
        gc.collect()
        found.append(len(resident_bytes(artifact.data_path)))
        real(*arguments)

    monkeypatch.setattr(steps, "run_with_iobinding", run)
    cache = CacheBuffers(session.geometry, 1)
    session.step(Step(np.array([[1, 2, 3]]), [0], [3]), cache)
    assert found == [before + 1]


def test_a_small_file_is_left_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_weights, "_SMALLEST_BYTES", SIZE + 1)
    weights = MappedWeights(file)
    assert weights._map[:] == file.read_bytes()
    weights.release()
    assert resident_bytes(file) == [SIZE]


@pytest.mark.parametrize("content", [None, b""])
def test_a_file_that_cannot_be_mapped(file: Path, content: bytes | None) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be mapped into memory"):
        MappedWeights(file)


def test_a_session_reads_from_one_mapping_and_keeps_it(artifacts: dict[str, Path]) -> None:
    """What is not packed, such as the embedding, lies in it; ONNX Runtime maps and copies nothing besides."""
    artifact = Artifact.open(artifacts["ort-cpu"])
    before = len(resident_bytes(artifact.data_path))
    session = OnnxRuntimeSession(artifact)
    assert len(resident_bytes(artifact.data_path)) == before + 1
    session.close()
    assert len(resident_bytes(artifact.data_path)) == before
