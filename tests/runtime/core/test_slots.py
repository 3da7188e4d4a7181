"""Several answers at once: what each of them says is what it says alone, whatever begins and ends beside it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import (
    CapacityError,
    ConstraintError,
    EngineBusyError,
    LogitsError,
    UnsupportedOptionError,
)
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.memory import HostMemory
from exaone_export.runtime.core.requests import Generation, Request, Token
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.sessions.opening import open_session
from exaone_export.runtime.text.chat import ChatFormat
from tests.conftest import TINY
from tests.runtime.conftest import VOCAB, tokens

CHUNK = 7


@pytest.fixture(scope="module")
def irregular(save_model: Any, export_artifact: Callable[..., Path]) -> Path:
    """Windows of several layers in no regular order."""
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    return export_artifact(save_model(3, num_hidden_layers=5, sliding_window=11, layer_types=kinds), "ort-cpu")


@pytest.fixture(scope="module", params=["ort-cpu", "tensorrt-rtx", "irregular"])
def session(request: pytest.FixtureRequest, artifacts: dict[str, Path], irregular: Path) -> Iterator[Any]:
    with open_session(Artifact.open({**artifacts, "irregular": irregular}[request.param]), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def cpu(artifacts: dict[str, Path]) -> Iterator[Any]:
    with open_session(Artifact.open(artifacts["ort-cpu"]), threads=1) as opened:
        yield opened


def prompt(length: int, seed: int = 0) -> list[int]:
    found: list[int] = tokens(1, length, seed=seed)[0].tolist()
    return found


def read(generation: Generation) -> list[int]:
    return [token.id for token in generation]


def read_all(generations: list[Generation]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    readers = [threading.Thread(target=lambda i=i, g=g: found.update({i: read(g)})) for i, g in enumerate(generations)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    return [found[index] for index in range(len(generations))]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_of_the_engine_reaches_all_who_wait(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(cpu, slots=2) as engine:
        begun = engine.submit(Request(prompt(5), 200))
        while not begun.poll():  # it has its slot then
            time.sleep(0.001)

        def broken(*_: Any) -> None:
            raise MemoryError("no slot")

        monkeypatch.setattr(engine._worker.slots, "take", broken)
        waiting = engine.submit(Request(prompt(6), 3))
        for each in (waiting, begun):
            with pytest.raises(MemoryError, match="no slot"):
                read(each)
        with pytest.raises(RuntimeError, match="the engine is closed"):
            engine.submit(Request(prompt(6), 3))


def test_answers_at_once_are_those_alone(session: Any) -> None:
    """Greedy and drawn ones, with guesses and without, of many lengths, past several windows."""
    requests = [
        Request(
            prompt(5 + 6 * index, seed=index),
            9 + 7 * (index % 4),
            Sampling(temperature=index % 3 / 2, seed=index),
            prompt_lookup_num_tokens=[None, 4][index % 2],
        )
        for index in range(10)
    ]
    with Engine(session, prefill_chunk_size=CHUNK) as engine:
        alone = [read(engine.submit(request)) for request in requests]
    with Engine(session, slots=4, prefill_chunk_size=CHUNK) as engine:
        assert read_all([engine.submit(request) for request in requests]) == alone


@pytest.mark.parametrize("precision", ["float32", "int4"])
def test_a_trained_model_says_the_same_at_once(export_artifact: Callable[..., Path], precision: str) -> None:
    """Greedily, what it was trained on, for 4-bit products of one row are rounded in another way than of several."""
    folder = export_artifact(TINY, "ort-cpu", max_length=256, precision=precision)
    with Runner.open(folder, threads=1) as runner:
        chat = ChatFormat(runner.tokenizer)
        texts = [f"What is {first} + {first + 9}?" for first in range(20, 28)]
        prompts = [chat.encode([{"role": "user", "content": text}]) for text in texts]
        alone = [runner.generate(each, max_new_tokens=30).read() for each in prompts]
    with Runner.open(folder, threads=1, slots=4) as runner:
        answers = [runner.generate(each, max_new_tokens=30) for each in prompts]
        assert [answer.read() for answer in answers] == alone


@pytest.mark.parametrize("seed", range(2))
def test_rows_that_come_and_go_in_any_order(session: Any, seed: int) -> None:
    """Turns of some conversations are begun, cancelled and ended at random: each says what it says alone."""
    chance = random.Random(seed)
    spoken: list[tuple[list[int], list[int], bool]] = []
    histories = [prompt(chance.randrange(4, 30), seed=100 * seed + index) for index in range(6)]
    running: dict[int, tuple[list[int], Generation, list[int]]] = {}

    def settle(which: int, *, is_left: bool) -> None:
        asked, generation, said = running.pop(which)
        if is_left:
            generation.cancel()
        said += read(generation)
        whole = generation.finish_reason == "length"
        assert whole or is_left
        spoken.append((asked, said, whole))
        kept = chance.choice([said, said[: len(said) // 2]])
        histories[which] = (asked + kept + prompt(chance.randrange(1, 5), seed=len(spoken)))[:140]

    with Engine(session, slots=3, prefill_chunk_size=CHUNK) as engine:
        for _ in range(40):
            which = chance.randrange(len(histories))
            if which in running:
                settle(which, is_left=chance.random() < 0.4)
            else:
                asked = histories[which]
                lookup = chance.choice([None, 3])
                generation = engine.submit(Request(asked, chance.randrange(1, 30), prompt_lookup_num_tokens=lookup))
                said: list[int] = []
                running[which] = asked, generation, said
                for _ in range(chance.randrange(4)):  # it goes on while others begin
                    said += [event.id for event in generation.poll() if isinstance(event, Token)]
                    time.sleep(0.001)
        for which in list(running):
            settle(which, is_left=False)
        counted = engine.statistics()
        assert (counted.running, counted.waiting) == (0, 0) and counted.reused_tokens > 0
    with Engine(session, prefill_chunk_size=CHUNK) as engine:
        for asked, said, _ in spoken:
            engine._worker.slots.latest().clear()
            if said:
                assert read(engine.submit(Request(asked, len(said)))) == said


def test_64_streams_lose_nothing(cpu: Any) -> None:
    requests = [Request(prompt(3 + index % 20, seed=index), 4 + index % 9) for index in range(64)]
    with Engine(cpu, prefill_chunk_size=CHUNK) as engine:
        alone = [read(engine.submit(request)) for request in requests]
    with Engine(cpu, slots=8, prefill_chunk_size=CHUNK) as engine:
        assert read_all([engine.submit(request) for request in requests]) == alone
        counted = engine.statistics()
    assert counted.answer_tokens == sum(map(len, alone))
    assert counted.prompt_tokens == sum(len(request.prompt) for request in requests)
    assert counted.steps < sum(map(len, alone)), "steps were shared"


class Held:
    """Holds the engine's thread in a request's prefill until it is let go."""

    def __init__(self) -> None:
        self._begun, self._go = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self._begun.set()
        assert self._go.wait(60)

    def wait(self) -> None:
        assert self._begun.wait(60)

    def release(self) -> None:
        self._go.set()


def test_a_queue_has_a_bound(cpu: Any) -> None:
    with Engine(cpu, slots=2, queue=1) as engine:
        held = Held()
        running = [engine.submit(Request(prompt(5, seed=1), 3, progress=held))]
        held.wait()
        running += [engine.submit(Request(prompt(5, seed=index), 3)) for index in (2, 3)]
        with pytest.raises(EngineBusyError, match="2 answers are generated and 1 requests wait, the maximum; try"):
            engine.submit(Request(prompt(5), 3))
        counted = engine.statistics()
        assert (counted.slots, counted.running + counted.waiting) == (2, 3)
        running[2].cancel()
        held.release()
        assert [len(read(each)) for each in running] == [3, 3, 0]
        assert len(read(engine.submit(Request(prompt(5), 3)))) == 3
    with Engine(cpu, queue=0) as engine:
        for _ in range(5):  # a reader that has seen the end finds the slot free
            assert len(read(engine.submit(Request(prompt(5), 2)))) == 2
        with pytest.raises(UnsupportedOptionError, match="queue is -1; it must be at least 0"):
            Engine(cpu, queue=-1)


@pytest.mark.parametrize("slots", [0, True, 1.5])
def test_slots_are_counted_from_1(cpu: Any, slots: Any) -> None:
    with pytest.raises(UnsupportedOptionError, match=r"slots is .*; it must be at least 1"):
        Engine(cpu, slots=slots)


def test_slots_that_a_session_has_no_room_for(
    artifacts: dict[str, Path], cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(Artifact.open(artifacts["onnx"]), threads=1) as session:
        with pytest.raises(UnsupportedOptionError, match=r"slots is 2, .* which allows 1; export .* --target ort-cpu"):
            Engine(session, slots=2)
        with Engine(session, slots=1) as engine:
            assert len(read(engine.submit(Request(prompt(5), 3)))) == 3
    monkeypatch.setattr(cpu, "max_batch", 4)
    with pytest.raises(UnsupportedOptionError, match=r"slots is 5, .* has room for 4; build it with --max-batch 5"):
        Engine(cpu, slots=5)

    def no_memory(*_: Any, **__: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(HostMemory, "block", no_memory)
    with pytest.raises(CapacityError, match="no memory for the caches of 4 slots of 256 tokens; open"):
        Engine(cpu, slots=4)


def test_a_conversation_finds_its_slot_again(cpu: Any) -> None:
    """Three take turns in three slots, each reusing all of its own; a fourth takes that of the oldest."""
    with Engine(cpu, slots=3, prefill_chunk_size=CHUNK) as engine:
        histories = [prompt(20, seed=index) for index in range(4)]
        for _ in range(3):
            at_once = [engine.submit(Request(history, 6)) for history in histories[:3]]
            for index, (generation, said) in enumerate(zip(at_once, read_all(at_once), strict=True)):
                expected = len(histories[index]) - 10 if len(histories[index]) > 20 else 0
                assert generation.timings.reused >= expected
                histories[index] = histories[index] + said + [3 + index, 5]
        read(engine.submit(Request(histories[1], 2)))
        read(engine.submit(Request(histories[3], 2)))
        counted = engine.statistics()
        assert counted.held_tokens == sum(len(slot.tokens) for slot in engine._worker.slots)
        again = engine.submit(Request(histories[1], 2))
        read(again)
        assert again.timings.reused >= len(histories[1]) - 10


def test_a_failure_ends_one_answer_alone(cpu: Any) -> None:
    def fail(_: int) -> bool:
        raise ZeroDivisionError

    class Nothing:
        def forbid(self, scores_V: np.ndarray) -> None:
            scores_V[:] = -np.inf

        def take(self, _: int) -> bool:
            return False

    with Engine(cpu, slots=4, prefill_chunk_size=CHUNK) as engine:
        wanted = read(engine.submit(Request(prompt(20), 30)))
        generations = [
            engine.submit(Request(prompt(20), 30)),
            engine.submit(Request(prompt(9, seed=1), 30, stops=fail)),
            engine.submit(Request(prompt(9, seed=2), 30, constraint=Nothing())),
            engine.submit(Request(prompt(9, seed=3), 30, listener=lambda: 1 / 0)),  # type: ignore[arg-type, return-value]
        ]
        with pytest.raises(ZeroDivisionError):
            read(generations[1])
        with pytest.raises(ConstraintError, match="allows no token of the vocabulary"):
            read(generations[2])
        assert read(generations[0]) == wanted
        read(generations[3])
        assert generations[3].finish_reason == "cancelled"


def test_logits_of_one_row_that_are_not_numbers(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = cpu.step

    def step(step: Any, *more: Any) -> tuple[Any, ...]:
        (logits,) = inner(step, *more)
        if len(step.counts) == 3:
            logits[1] = np.nan
        return (logits,)

    requests = [Request(prompt(4, seed=index), 40) for index in range(3)]
    with Engine(cpu, slots=3, prefill_chunk_size=CHUNK) as engine:
        alone = [read(engine.submit(request)) for request in requests]
        monkeypatch.setattr(cpu, "step", step)
        outcomes = []
        for generation in [engine.submit(request) for request in requests]:
            try:
                outcomes.append(read(generation))
            except LogitsError:
                outcomes.append([])
        assert sum(not said for said in outcomes) == 1
        assert all(said in ([], wanted) for said, wanted in zip(outcomes, alone, strict=True))


def test_a_step_that_fails_ends_those_in_it_and_the_engine_goes_on(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, is_broken = cpu.step, [True]

    def step(step: Any, *more: Any) -> tuple[Any, ...]:
        if len(step.counts) == 2 and is_broken[0]:
            is_broken[0] = False
            raise RuntimeError("out of memory")
        found: tuple[Any, ...] = inner(step, *more)
        return found

    with Engine(cpu, slots=3, prefill_chunk_size=CHUNK) as engine:
        wanted = read(engine.submit(Request(prompt(70, seed=5), 9)))
        engine._worker.slots.latest().clear()
        monkeypatch.setattr(cpu, "step", step)
        failing = [engine.submit(Request(prompt(4, seed=index), 60)) for index in range(2)]
        reading = engine.submit(Request(prompt(70, seed=5), 9))  # its prompt is not done by then
        for generation in failing:
            with pytest.raises(RuntimeError, match="out of memory"):
                read(generation)
        assert read(reading) == wanted


def test_a_constraint_is_asked_in_the_order_of_choosing(cpu: Any) -> None:
    """Only tokens of three kinds, in turn, and ten of them; prompt lookup does not change that."""

    class Cycle:
        def __init__(self) -> None:
            self.taken: list[int] = []

        def forbid(self, scores_V: np.ndarray) -> None:
            scores_V[np.arange(VOCAB) % 3 != len(self.taken) % 3] = -np.inf

        def take(self, token: int) -> bool:
            self.taken.append(token)
            return len(self.taken) == 10

    asked, answers = [3, 4, 5] * 6, []
    with Engine(cpu, slots=2, prefill_chunk_size=CHUNK) as engine:
        for lookup in (None, 5):
            cycle = Cycle()
            generation = engine.submit(Request(asked, 50, constraint=cycle, prompt_lookup_num_tokens=lookup))
            answers.append(read(generation))
            assert answers[-1] == cycle.taken and [token % 3 for token in cycle.taken] == [0, 1, 2] * 3 + [0]
            assert generation.finish_reason == "stop"
    assert answers[0] == answers[1]


def test_events_are_polled(cpu: Any) -> None:
    ready, events = threading.Event(), []
    with Engine(cpu) as engine:
        wanted = read(engine.submit(Request(prompt(9), 8)))
        generation = engine.submit(Request(prompt(9), 8, listener=ready.set))
        while generation.finish_reason is None:
            assert ready.wait(60)
            ready.clear()
            events += generation.poll()
        assert [event.id for event in events[:-1]] == wanted and events[-1] == "length"  # type: ignore[union-attr]
        assert generation.poll() == [] and generation.finish_reason == "length"


def test_a_slot_is_free_within_a_step_of_its_cancellation(cpu: Any) -> None:
    with Engine(cpu, slots=2, prefill_chunk_size=CHUNK) as engine:
        steps, submitted = dict[str, int](), threading.Event()

        def note(what: str) -> None:  # in the engine's thread, where no further step comes between
            steps.setdefault(what, engine.statistics().steps)

        def cancel() -> None:
            submitted.wait()
            long[0].cancel()
            note("cancelled")

        long = [engine.submit(Request(prompt(5, seed=0), 240, listener=cancel))]
        long += [engine.submit(Request(prompt(5, seed=1), 240))]
        waiting = engine.submit(Request(prompt(5, seed=7), 2, listener=lambda: note("answered")))
        submitted.set()
        read(waiting)
        assert steps["answered"] - steps["cancelled"] <= 6  # the steps of its prompt, and those of the other answer
        assert len(read(long[0])) == 1 and long[0].finish_reason == "cancelled"
        engine.close()
        assert len(read(long[1])) < 240 and long[1].finish_reason == "cancelled"


def test_prompts_take_turns_so_that_a_short_one_need_not_wait_for_a_long_one(cpu: Any) -> None:
    with Engine(cpu, slots=2, prefill_chunk_size=CHUNK) as engine:
        held = Held()
        long = engine.submit(Request(prompt(200, seed=1), 1, progress=held))
        held.wait()
        short = engine.submit(Request(prompt(9, seed=2), 1))
        held.release()
        read(long), read(short)
        first = [each.timings.first_token or 0 for each in (short, long)]
        assert first == sorted(first)


def test_a_slot_that_no_token_reaches_costs_no_memory(cpu: Any) -> None:
    """Nor do many requests, one after the other."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with Engine(cpu, slots=64) as engine:  # 64 times 256 tokens
        read(engine.submit(Request(prompt(5), 2)))
        before = resident()
        for index in range(200):
            read(engine.submit(Request([7, *prompt(3, seed=index)], 2)))
        assert resident() - before < 8 << 20
