"""How long a guess is worth judging: nothing is lost where little repeats, and much is gained where much does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.answering.loop import Answering
from exaone_export.runtime.core.answering.pace import Pace, StepCosts
from exaone_export.runtime.core.answering.prompt_lookup import PromptLookup
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Generation, Request
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.runner.lookup import default_lookup, lookup_of
from exaone_export.runtime.sessions.opening import open_session
from tests.runtime.conftest import tokens


def costs(more: float, jump: float = 0.0) -> StepCosts:
    """Where another token costs ``more`` of a step of one, and the second one ``jump`` beside."""
    found = StepCosts()
    for width in range(1, 12):
        found.note(width, 0.08 * (1 + more * (width - 1) + jump * (width > 1)))
    return found


def test_a_cost_is_the_median_of_the_latest_steps() -> None:
    found = StepCosts()
    assert found.ratio(6) == pytest.approx(2), "before anything is measured"
    for seconds in (9, 1, 1.1, 0.9, 1, 5, 1):
        found.note(1, seconds)
    for seconds in (7, 3, 3, 2.9, 3.1, 3):
        found.note(5, seconds)
    assert found.ratio(5) == pytest.approx(3)
    assert found.ratio(1) == 1
    assert found.ratio(3) == pytest.approx(2)  # on the line between
    assert found.ratio(9) == pytest.approx(5)
    found.note(2, 0.5)
    assert found.ratio(2) == 1, "a wider step is not taken to be cheaper"


@pytest.mark.parametrize(
    ("right", "more", "length"),
    [(0.0, 0.1, 0), (0.3, 0.6, 0), (1.0, 0.6, 10), (1.0, 1.0, 0), (0.9, 0.05, 10), (0.5, 0.2, 1)],
)
def test_the_length_follows_what_is_right_and_what_it_costs(right: float, more: float, length: int) -> None:
    pace = Pace(costs(more))
    rng = random.Random(0)
    for _ in range(2000):
        hit = rng.random() < right
        pace.note(int(hit), int(not hit))
    assert pace.share == pytest.approx(right, abs=0.15)
    pace._right, pace._judged = right, 1.0
    assert pace.length(10) == length


def simulate(truth: Callable[[int], float], more: float, count: int = 2000, jump: float = 0.0) -> float:
    """How many times as fast as plain decoding an answer is whose guesses are right with these chances."""
    rng, known = random.Random(1), costs(more, jump)
    pace, spent, given = Pace(known), 0.0, 0
    while given < count:
        length = pace.length(10)
        right = 0
        while right < max(length, 1) and rng.random() < truth(given + right):
            right += 1
        pace.note(right, int(right < max(length, 1)))
        spent += known.ratio(length + 1)
        given += right + 1 if length else 1
    return given / spent


@pytest.mark.parametrize("more", [0.02, 0.1, 0.3, 0.55, 1.0])
def test_nothing_is_lost_and_much_is_won(more: float) -> None:
    assert simulate(lambda _: 0.0, more) > 0.99
    assert simulate(lambda _: 0.2, more) > 0.97
    quotes = simulate(lambda _: 0.98, more, jump=0.3 if more < 0.5 else 0.0)
    assert quotes > {0.02: 6, 0.1: 4, 0.3: 2.2, 0.55: 1.4, 1.0: 0.97}[more]
    halves = simulate(lambda at: 0.98 if at % 1000 < 500 else 0.0, more)
    assert halves > (1.15 if more < 0.5 else 0.97), "a quotation in the middle of new text is noticed"


@pytest.fixture(scope="module")
def engine(artifacts: dict[str, Path]) -> Iterator[Engine]:
    with (
        open_session(Artifact.open(artifacts["ort-cpu"]), threads=1) as session,
        Engine(session, prefill_chunk_size=7) as opened,
    ):
        yield opened


def answer(engine: Engine, prompt: list[int], new: int, **more: Any) -> tuple[list[int], Generation]:
    generation = engine.submit(Request(prompt, new, **more))
    return [token.id for token in generation], generation


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.2, seed=3)])
def test_the_tokens_are_those_of_plain_decoding(
    engine: Engine, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is guessed and however the pace changes, in fewer steps where guesses are right."""
    monkeypatch.setattr(StepCosts, "ratio", lambda _, width: 1 + 0.2 * (width - 1))
    prompt = tokens(1, 30)[0].tolist()
    wanted, _ = answer(engine, prompt, 120, sampling=sampling)
    text, rng = prompt + wanted, random.Random(0)

    def guess(lookup: PromptLookup) -> list[int]:
        """Right in the middle of the answer, and wrong at its ends."""
        length = len(lookup.tokens)
        true = 8 if 60 < length < 120 else 0 if rng.random() < 0.8 else 2
        return text[length : length + true] + [(token + 1) % 97 for token in text[length + true : length + 9]]

    monkeypatch.setattr(PromptLookup, "guess", guess)
    adaptive: dict[str, Any] = {"prompt_lookup_num_tokens": 10, "lookup_adapts": True, "sampling": sampling}
    found, generation = answer(engine, prompt, 120, **adaptive)
    assert found == wanted
    _, always = answer(engine, prompt, 120, prompt_lookup_num_tokens=10, sampling=sampling)
    assert generation.steps < 100
    monkeypatch.setattr(
        PromptLookup, "guess", lambda lookup: [(token + 1) % 97 for token in text[len(lookup.tokens) :]][:9]
    )
    widths = list[int]()
    run = Answering.next_tokens
    monkeypatch.setattr(
        Answering, "next_tokens", lambda self, **more: (got := run(self, **more), widths.append(len(got)))[0]
    )
    found, generation = answer(engine, prompt, 120, **adaptive)
    assert found == wanted and generation.steps == 119 and {*widths} == {1}, "wrong guesses are never run"
    assert always.steps < 119


class Said:
    def __init__(self, **values: Any) -> None:
        self.values = values


def test_who_says_how_much_is_guessed() -> None:
    silent, file, seeded = Said(), Said(prompt_lookup_num_tokens=4), Sampling(temperature=1, seed=1)
    cases: list[tuple[Any, Any, Any, Sampling, tuple[int | None, bool]]] = [
        (None, None, silent, Sampling(), (None, False)),
        (None, None, file, Sampling(), (4, False)),
        (None, "auto", file, Sampling(), (10, True)),
        ("off", "auto", file, Sampling(), (None, False)),
        (None, "off", file, Sampling(), (None, False)),
        (7, "auto", file, Sampling(), (7, False)),
        ("auto", None, file, seeded, (10, True)),
        (None, "auto", silent, seeded, (None, False)),
        (None, "auto", silent, Sampling(seed=1), (10, True)),
    ]
    for asked, default, defaults, sampling, wanted in cases:
        assert lookup_of(asked, default, defaults, sampling) == wanted, (asked, default)
    assert (default_lookup(silent), default_lookup(file)) == ("auto", 4)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="prompt_lookup_num_tokens is 'fast'; give a number of tokens, 'auto' or 'off'"):
        lookup_of("fast", None, silent, Sampling())  # type: ignore[arg-type]
