"""The engine's answers: the mirror's greedy tokens, reuse of what a prompt shares with the last one, cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import ClosedError, LogitsError, PromptError, UnsupportedOptionError
from exaone_export.runtime.core.buffers import BufferPool
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Generation, Request
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.core.steps import Step
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.sessions.opening import open_session
from tests.exporter.disturbed import forked_while_held
from tests.runtime.conftest import MAX_LENGTH, VOCAB, tokens

CHUNK = 7
SURE = Sampling(logprobs=2)


@pytest.fixture(scope="module", params=["ort-cpu", "onnx", "tensorrt-rtx"])
def session(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Iterator[Any]:
    opened = open_session(Artifact.open(artifacts[request.param]), threads=1)
    opened.name = request.param
    yield opened
    opened.close()


@pytest.fixture
def engine(session: Any) -> Iterator[Engine]:
    with Engine(session, prefill_chunk_size=CHUNK) as opened:
        yield opened


def prompt(length: int, seed: int = 0) -> list[int]:
    found: list[int] = tokens(1, length, seed=seed)[0].tolist()
    return found


def answer(engine: Engine, prompt: Sequence[int], new: int = 24, **more: Any) -> tuple[list[int], Generation]:
    generation = engine.submit(Request(prompt, new, **more))
    return [token.id for token in generation], generation


def test_greedy_tokens_are_the_mirror_s(engine: Engine, session: Any, artifacts: dict[str, Path]) -> None:
    """Past several windows of 8. What a TensorRT engine is made of gives those of ort-cpu."""
    source = artifacts["ort-cpu" if session.name == "tensorrt-rtx" else session.name]
    with ExaoneForCausalLM.from_pretrained(source, threads=1) as model:
        for length in (1, 6, 7, 8, 21, 40):
            ids = tokens(1, length, seed=length)
            wanted = model.generate(ids, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0)
            found, generation = answer(engine, ids[0].tolist(), 30)
            assert found == wanted[0, length:].tolist(), length
            assert generation.finish_reason == "length" and generation.timings.first_token is not None


def test_why_an_answer_ends(engine: Engine) -> None:
    ids = prompt(12)
    whole, _ = answer(engine, ids)
    end = whole[5]
    expected = whole[: whole.index(end) + 1]
    found, generation = answer(engine, ids, stop_ids={end})
    assert found == expected and generation.finish_reason == "stop"
    seen: list[int] = []
    found, generation = answer(engine, ids, stops=lambda token: seen.append(token) or len(seen) == 3)
    assert found == seen == whole[:3] and generation.finish_reason == "stop"
    assert list(generation) == [], "an answer is read once"


def test_progress_of_a_prompt(engine: Engine) -> None:
    told: list[tuple[str, int, int]] = []
    answer(engine, prompt(30, seed=5), 2, progress=lambda *report: told.append(report))
    assert told[0] == ("prefill", 0, 30) and told[-1] == ("prefill", 30, 30)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told) and len(told) >= 5


def test_a_prompt_goes_on_from_what_it_shares(engine: Engine, session: Any) -> None:
    """At shared lengths on both sides of what the windows hold: the tokens of a cold prefill."""
    base, tail = prompt(30, seed=1), prompt(5, seed=2)
    first, _ = answer(engine, base, 20)
    held = base + first[:-1]
    reused: dict[int, int] = {}
    for shared in (0, 1, 10, 22, 25, 27, 29, *range(32, len(held), 5), len(held)):
        engine._worker.slots.latest().clear()
        answer(engine, base, 20)
        asked = [*held[:shared], (held + first[-1:])[shared] % 90 + 3, *tail]
        found, generation = answer(engine, asked, 20, sampling=SURE)
        reused[shared] = generation.timings.reused
        with Engine(session, prefill_chunk_size=CHUNK) as cold:
            assert answer(cold, asked, 20)[0] == found, shared
    # What was evicted since the end of the prompt is saved; before that, only what windows hold is there.
    near = [n for n in reused if 25 <= n <= 30]
    # A prompt's last tokens are run anew, so that the next one can go back to where they begin.
    assert all(n - 2 == reused[n] for n in near) and reused[len(held)] == len(held), reused
    assert reused[0] == reused[1] == reused[10] == 0


def test_a_long_answer_is_not_saved_whole(engine: Engine, session: Any) -> None:
    """What a prompt's end can need is saved, and no more; going back to it is exact all the same."""
    base = prompt(30, seed=1)
    first, _ = answer(engine, base, 150)
    rows = engine._worker.slots.latest()._rows
    assert rows._journal is not None
    for layer in rows._journal.saved.values():
        assert sum(max(saved.counts) for saved in layer) <= 8 + 30
    held = base + first[:-1]
    # Into the middle of the answer there is no way back; to its end, and to the prompt's end, there is.
    for shared, expected in ((100, 0), (30, 26), (26, 22), (len(held), len(held))):
        engine._worker.slots.latest().clear()
        answer(engine, base, 150)
        asked = [*held[:shared], *prompt(4, seed=5)]
        found, generation = answer(engine, asked, 12)
        assert generation.timings.reused == expected, shared
        with Engine(session, prefill_chunk_size=CHUNK) as cold:
            assert answer(cold, asked, 12)[0] == found, shared


def test_a_conversation_of_ten_turns(engine: Engine, session: Any) -> None:
    """Every turn drops a part of the answer before it, as templates drop reasoning, and adds a question."""
    history = prompt(18, seed=3)
    for turn in range(10):
        found, generation = answer(engine, history, 12, sampling=SURE)
        if turn:
            assert generation.timings.reused >= len(history) - 8 - 4 - 4
        with Engine(session, prefill_chunk_size=CHUNK) as cold:
            assert answer(cold, history, 12)[0] == found, turn
        history = [*history[:-2], 4, *found[6:10], *prompt(3, seed=turn)]


def test_without_windows_every_prefix_is_reused(save_model: Any, export_artifact: Callable[..., Path]) -> None:
    model = save_model(sliding_window=None, layer_types=["full_attention"] * 4)
    with open_session(Artifact.open(export_artifact(model, "ort-cpu")), threads=1) as session:
        base = prompt(30, seed=1)
        with Engine(session, prefill_chunk_size=CHUNK) as engine, Engine(session) as cold:
            for shared in (1, 12, 29, 30, 38):
                first, _ = answer(engine, base, 10)
                asked = (base + first)[:shared] + prompt(4, seed=9)
                found, generation = answer(engine, asked, 10)
                assert generation.timings.reused >= shared
                cold._worker.slots.latest().clear()
                assert answer(cold, asked, 10)[0] == found
            same, generation = answer(engine, asked, 10)
            assert same == found and generation.timings.reused == len(asked) - 1


def test_a_seed_gives_the_same_tokens_whatever_else_runs(engine: Engine) -> None:
    sampling = Sampling(temperature=1.5, seed=11)
    wanted, _ = answer(engine, prompt(9), sampling=sampling)
    other = [engine.submit(Request(prompt(20, seed=i), 6, Sampling(temperature=2))) for i in range(3)]
    again = engine.submit(Request(prompt(9), 24, sampling))
    found: dict[int, list[int]] = {}
    readers = [
        threading.Thread(target=lambda i=i, g=g: found.update({i: [token.id for token in g]}))
        for i, g in enumerate([*other, again])
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert found[3] == wanted and [len(found[i]) for i in range(3)] == [6, 6, 6]


@pytest.mark.parametrize("at", ["waiting", "prefill", "decode"])
def test_cancelling_leaves_the_engine_usable(engine: Engine, at: str) -> None:
    ids = prompt(40, seed=4)
    wanted, _ = answer(engine, ids)
    answer(engine, prompt(3, seed=8))
    begun, go_on = threading.Event(), threading.Event()

    def hold(_step: str, done: int, _total: int) -> None:
        if done >= 14:
            begun.set()
            assert go_on.wait(60)

    if at == "waiting":
        blocking = engine.submit(Request(ids, 3, progress=hold))
        generation = engine.submit(Request(ids, 24))
        begun.wait()
        generation.cancel()
        go_on.set()
        assert len(list(blocking)) == 3
    elif at == "prefill":
        generation = engine.submit(Request(ids, 24, progress=hold))
        begun.wait()
        threading.Timer(0.05, go_on.set).start()
    else:
        generation = engine.submit(Request(ids, MAX_LENGTH - len(ids)))
        for count, _ in enumerate(generation):
            if count == 5:
                break
    if at == "prefill":
        generation.cancel()
    assert len(list(generation)) == 0
    generation.close()
    assert generation.finish_reason == "cancelled"
    assert answer(engine, ids)[0] == wanted


def test_a_step_that_is_ended_inside(engine: Engine, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step of the answer in turn; the next prompt goes on from what is whole, or anew."""
    ids, run, at = prompt(11, seed=6), session._run, [0]
    wanted, _ = answer(engine, ids, 20)
    current: list[Generation] = []

    def ending(binding: Any, options: Any, cancellation: Any, step: Any) -> None:
        at[0] -= 1
        if at[0] == 0:
            options.terminate = True
            current[0].cancellation._requested = True
        run(binding, options, cancellation if at[0] else None, step)

    def ended(*arguments: Any) -> None:
        try:
            ending(*arguments)
        except Exception:
            arguments[2].check()
            raise

    monkeypatch.setattr(session, "_run", ended)
    for step in range(1, 20, 3):
        answer(engine, prompt(4, seed=20 + step), 2)
        begin, release = threading.Event(), threading.Event()

        def hold(*_: Any, begin: threading.Event = begin, release: threading.Event = release) -> None:
            begin.set()
            assert release.wait(60)

        generation = engine.submit(Request(ids, 20, progress=hold))
        begin.wait()
        current[:], at[0] = [generation], step
        release.set()
        found = [token.id for token in generation]
        assert generation.finish_reason == "cancelled" and found == wanted[: len(found)]
        at[0] = 0
        assert answer(engine, ids, 20)[0] == wanted, step


def test_an_interruption_of_the_reader_ends_the_answer(engine: Engine) -> None:
    generation = engine.submit(Request(prompt(10), 100))
    with pytest.raises(KeyboardInterrupt):
        for _ in generation:
            raise KeyboardInterrupt
    generation.close()
    assert generation.finish_reason == "cancelled"


@pytest.mark.parametrize(
    ("given", "new", "error", "sentence"),
    [
        ([], 1, PromptError, "the prompt is empty"),
        ([1, 97], 1, PromptError, "holds token 97, and the vocabulary is 0 to 96"),
        ([-1], 1, PromptError, "holds token -1"),
        ([1.5], 1, PromptError, "must be a list of whole numbers"),
        ([3], 0, PromptError, "max_new_tokens is 0; it must be at least 1"),
        ([3] * 256, 1, PromptError, "come to 257 tokens, and the artifact holds 256"),
        ([3] * 200, 57, PromptError, "a prompt of 200 tokens and an answer of up to 57 come to 257"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(
    engine: Engine, given: list[Any], new: int, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        engine.submit(Request(given, new))
    with pytest.raises(UnsupportedOptionError, match="logit_bias names token 97"):
        engine.submit(Request([3], 1, Sampling(logit_bias={97: 1.0})))


def test_a_failure_is_raised_to_the_reader(engine: Engine, session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, _ = answer(engine, prompt(9))
    broken = (np.full((1, 1, VOCAB), np.nan, np.float32),)
    monkeypatch.setattr(session, "step", lambda *_: broken)
    with pytest.raises(LogitsError):
        answer(engine, prompt(9, seed=7))
    monkeypatch.undo()
    assert answer(engine, prompt(9))[0] == wanted


def test_closing_ends_what_runs_and_what_waits(session: Any) -> None:
    engine = Engine(session)
    running, waiting = (engine.submit(Request(prompt(5, seed=i), 200)) for i in range(2))
    tokens = iter(running)  # held, since leaving it would let the next one begin
    next(tokens)
    engine.close()
    engine.close()
    assert len(list(waiting)) == 0 and waiting.finish_reason == "cancelled"
    with pytest.raises(ClosedError, match="is closed"):
        engine.submit(Request([3], 1))


def test_a_forked_process_is_refused_and_does_not_wait_for_ever(engine: Engine) -> None:
    def use() -> None:
        with pytest.raises(ClosedError, match="runs in the process that this one was forked from; open the artifact"):
            engine.submit(Request([3], 1))
        with pytest.raises(ClosedError, match="the engine runs in the process that this one was forked from"):
            engine.statistics()
        assert not engine.is_alive
        engine.close()

    # As the engine's own thread may have it at the moment of a fork.
    assert forked_while_held(engine._worker._changed, use) == 0
    assert engine.is_alive and len(answer(engine, prompt(5), 3)[0]) == 3


def test_a_session_is_not_stepped_in_a_forked_process(session: Any) -> None:
    buffers, step = BufferPool(session.geometry).take(1), Step(tokens(1, 5).numpy(), [0], [5])

    def use() -> None:
        with pytest.raises(ClosedError, match="the session runs in the process that this one was forked from"):
            session.step(step, buffers)

    assert forked_while_held(session._lock, use) == 0
    assert tuple(session.step(step, buffers)[0].shape) == (1, 1, VOCAB)


def test_an_engine_that_fails_is_not_alive(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    engine = Engine(session)
    monkeypatch.setattr(engine._worker, "_admit", fail)
    with pytest.raises(RuntimeError, match="broken"):
        list(engine.submit(Request([3], 1)))
    engine._thread.join(10)
    assert not engine.is_alive
    with pytest.raises(ClosedError):
        engine.submit(Request([3], 1))


def test_an_engine_that_nobody_uses_ends(session: Any) -> None:
    engine = Engine(session)
    thread = engine._thread
    assert len(list(engine.submit(Request([3], 2)))) == 2
    del engine
    thread.join(10)
    assert not thread.is_alive()
