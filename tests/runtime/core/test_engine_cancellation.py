"""A cancelled answer ends inside the step that runs, by ONNX Runtime's own switch, and the next one is exact."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Generation, Request
from exaone_export.runtime.sessions.opening import open_session
from tests.runtime.conftest import tokens

PROMPT: list[int] = tokens(1, 40)[0].tolist()
STEPS = (1, 3, 6, 7, 8, 12, 20)  # the prompt takes six steps of 7 tokens, the answer one a token


class Watched:
    """An ``InferenceSession`` that calls ``at_run`` with the number of each run and its options before it begins."""

    def __init__(self, inner: Any, at_run: Callable[[int, Any], None]) -> None:
        self._inner, self._at_run, self.runs, self.failed = inner, at_run, 0, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runs += 1
        self._at_run(self.runs, options)
        try:
            self._inner.run_with_iobinding(binding, options)
        except Exception:
            self.failed.append(self.runs)
            raise


@pytest.fixture(params=["ort-cpu", "onnx"])
def session(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Iterator[Any]:
    with open_session(Artifact.open(artifacts[request.param]), threads=1) as opened:
        yield opened


def read(generation: Generation) -> list[int]:
    return [token.id for token in generation]


@pytest.mark.parametrize("lookup", [None, 5])
def test_the_step_that_runs_is_ended(session: Any, monkeypatch: pytest.MonkeyPatch, lookup: int | None) -> None:
    with Engine(session, prefill_chunk_size=7) as engine:
        wanted = read(engine.submit(Request(PROMPT, 24)))
        for step in STEPS if lookup is None else STEPS[3:]:
            read(engine.submit(Request(PROMPT[::-1], 1)))
            running: list[Generation] = []
            submitted = threading.Event()

            def cancel(run: int, options: Any, step: int = step, on: Any = submitted, running: Any = running) -> None:
                if run == step:
                    assert on.wait(60)
                    running[0].cancel()
                    assert options.terminate

            with monkeypatch.context() as patch:
                watched = Watched(session._session, cancel)
                patch.setattr(session, "_session", watched)
                running.append(engine.submit(Request(PROMPT, 24, prompt_lookup_num_tokens=lookup)))
                submitted.set()
                found = read(running[0])
            if watched.runs >= step:
                assert running[0].finish_reason == "cancelled" and watched.failed == [step]
            assert found == wanted[: len(found)]
            assert read(engine.submit(Request(PROMPT, 24))) == wanted, step


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_ends_the_step_that_runs(session: Any, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """It comes to the thread that reads; the run goes on only until that thread has ended it."""
    ended = threading.Event()

    def interrupt(run: int, options: Any) -> None:
        if run == step:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
            for _ in range(6000):
                if options.terminate:
                    return ended.set()
                threading.Event().wait(0.01)
        return None

    with Engine(session, prefill_chunk_size=7) as engine:
        wanted = read(engine.submit(Request(PROMPT, 24)))
        read(engine.submit(Request(PROMPT[::-1], 1)))
        with monkeypatch.context() as patch:
            patch.setattr(session, "_session", Watched(session._session, interrupt))
            generation = engine.submit(Request(PROMPT, 24))
            with pytest.raises(KeyboardInterrupt):
                read(generation)
        assert ended.is_set() and generation.finish_reason == "cancelled"
        assert read(engine.submit(Request(PROMPT, 24))) == wanted
