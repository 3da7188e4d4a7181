"""`Engine` and `Runner` with PyTorch's tensors as memory: sessions of a GPU, on stand-ins for its runtimes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.sessions import onnxruntime
from exaone_export.runtime.sessions.cuda_graphs import CudaGraphSession
from exaone_export.runtime.sessions.opening import open_session
from tests.runtime.conftest import tokens
from tests.runtime.mirror.test_dense_generation import export_for_cpu
from tests.runtime.sessions.capturing import CapturingSession
from tests.runtime.sessions.engine_double import open_with_engine_session

IDENTITY = "a" * 64
Engines = tuple[Engine, Engine]


@pytest.fixture(scope="module", params=["ort-cuda", "tensorrt-rtx"])
def session(
    request: pytest.FixtureRequest, random_hybrid: Path, artifacts: dict[str, Path], tmp_path_factory: Any
) -> Iterator[Any]:
    """Windows of 8 rows, which evict at every token; the tensors are on the CPU."""
    if request.param == "tensorrt-rtx":
        with open_with_engine_session(artifacts["tensorrt-rtx"], max_batch=4) as model:
            yield model.session
        return
    with pytest.MonkeyPatch.context() as patch:
        folder = export_for_cpu(random_hybrid, tmp_path_factory.mktemp("cuda") / "artifact", "float32", patch)
        load = onnxruntime.load_graph
        patch.setattr(onnxruntime, "load_graph", lambda *given, **options: CapturingSession(load(*given, **options)))
        with CudaGraphSession(Artifact.open(folder), threads=1) as opened:
            yield opened


@pytest.fixture
def engines(session: Any, artifacts: dict[str, Path]) -> Iterator[Engines]:
    """One with tensors, and one with numpy's arrays."""
    with (
        open_session(Artifact.open(artifacts["ort-cpu"]), threads=1) as host,
        Engine(session, prefill_chunk_size=7) as ours,
        Engine(host, prefill_chunk_size=7) as theirs,
    ):
        assert type(session.geometry.memory).__name__ == "TorchMemory"
        yield ours, theirs


def prompt(length: int, seed: int = 0) -> list[int]:
    found: list[int] = tokens(1, length, seed=seed)[0].tolist()
    return found


def ask(engine: Engine, asked: list[int], new: int = 14, **options: Any) -> tuple[list[int], int]:
    generation = engine.submit(Request(asked, new, **options))
    return [token.id for token in generation], generation.timings.reused


def test_ten_turns_past_several_windows(engines: Engines) -> None:
    """The tokens and the reuse are those of numpy's arrays; a part of each answer is dropped, as reasoning is."""
    history = prompt(18, seed=3)
    for turn in range(10):
        (found, reused), (wanted, _) = (ask(engine, history, 12) for engine in engines)
        assert found == wanted and bool(reused) == bool(turn), turn
        history = [*history[:-2], 4, *found[6:10], *prompt(3, seed=turn)]


def test_prompt_lookup_gives_the_same_tokens_in_fewer_steps(engines: Engines) -> None:
    asked = [*prompt(9, seed=1) * 3]
    plain, _ = ask(engines[1], asked, 60)
    asked += plain  # what was said is what can be guessed
    (found, _), (wanted, _) = (ask(engine, asked, 40, prompt_lookup_num_tokens=5) for engine in engines)
    assert found == wanted == ask(engines[1], asked, 40)[0]


def test_a_seed_draws_the_same_tokens(engines: Engines) -> None:
    drawn = [ask(engine, prompt(20), 30, sampling=Sampling(1.0, top_p=0.9, seed=5))[0] for engine in engines]
    assert drawn[0] == drawn[1]


def test_a_cancelled_prompt_goes_on_where_it_was_left(engines: Engines) -> None:
    asked = prompt(40, seed=8)

    def cancel(_: str, done: int, total: int) -> None:
        if done >= 14:
            generation.cancel()

    generation = engines[0].submit(Request(asked, 5, progress=cancel))
    assert list(generation) == [] and generation.finish_reason == "cancelled"
    found, reused = ask(engines[0], asked)
    assert found == ask(engines[1], asked)[0] and reused == 14


@pytest.mark.parametrize("length", [5, 8, 30])
def test_a_kept_prompt(engines: Engines, tmp_path: Path, length: int) -> None:
    """Also of an answer, whose evictions were saved; what is loaded and saved again is the same file."""
    ours, theirs = engines
    base = prompt(length, seed=length)
    said, _ = ask(ours, base)

    def save(path: Path) -> int:
        return ours.perform(lambda slot, cancellation: slot.save(path, IDENTITY, cancellation))

    held = base + said[:-1]
    assert save(tmp_path / "kept") == len(held)
    for shared in (len(held), max(length - 3, 0)):
        asked = [*held[:shared], *prompt(6, seed=2)]
        ask(ours, prompt(25, seed=9))
        assert ours.perform(lambda slot, cancellation: slot.load(tmp_path / "kept", IDENTITY, cancellation))
        assert save(tmp_path / "again") == len(held)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "kept").read_bytes()
        found, reused = ask(ours, asked)
        assert found == ask(theirs, asked)[0] and (reused == shared or shared < len(held))


def test_steps_and_captures_are_the_engine_s_thread_s(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step, threads = session.step, set[str]()

    def watched(*given: Any) -> Any:
        threads.add(threading.current_thread().name)
        return step(*given)

    monkeypatch.setattr(session, "step", watched)
    with Engine(session) as engine:
        ask(engine, prompt(9))
    assert threads == {"exaone-engine"}


def test_the_sessions_of_a_gpu_do_without_transformers() -> None:
    code = (
        "import sys; sys.modules['transformers'] = None; import exaone_export.runtime.runner.chat\n"
        "assert 'torch' not in sys.modules\n"
        "from exaone_export.runtime.sessions import cuda_graphs, tensorrt"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
