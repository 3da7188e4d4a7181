"""Prompt lookup in the engine: transformers' guesses, and the tokens of plain decoding in fewer steps."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation import PromptLookupCandidateGenerator

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import UnsupportedOptionError
from exaone_export.runtime.core.answering.prompt_lookup import PromptLookup, judge
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Generation, Request
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.sessions.opening import open_session
from tests.runtime.conftest import MAX_LENGTH, tokens

CHUNK = 7
SAMPLED = Sampling(temperature=1.3, top_k=20, seed=5, repetition_penalty=1.1, presence_penalty=0.2)
LOOPING: list[int] = tokens(1, 9, seed=3)[0].tolist() * 5


@pytest.fixture(scope="module", params=["ort-cpu", "onnx", "tensorrt-rtx"])
def engine(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Iterator[Engine]:
    with (
        open_session(Artifact.open(artifacts[request.param]), threads=1) as session,
        Engine(session, prefill_chunk_size=CHUNK) as opened,
    ):
        yield opened


@pytest.fixture
def guess_from(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """Replace the lookup: ``guess_from(text, seed)`` guesses that text up to a random place, then wrong tokens."""

    def replace(text: list[int], seed: int, right: float | None = None) -> list[tuple[int, int]]:
        rng, made = random.Random(seed), []

        def guess(lookup: PromptLookup) -> list[int]:
            length, count = len(lookup.tokens), rng.randint(0, 13)
            true = rng.randint(0, count) if right is None else int(right * count)
            made.append((true, count - true))
            wrong = [(token + 1) % 97 for token in text[length + true : length + count]]
            return text[length : length + true] + wrong

        monkeypatch.setattr(PromptLookup, "guess", guess)
        return made

    return replace


def answer(engine: Engine, prompt: list[int], new: int, lookup: int | None = None, **more: Any) -> Generation:
    generation = engine.submit(Request(prompt, new, prompt_lookup_num_tokens=lookup, **more))
    generation.found = [token.id for token in generation]  # type: ignore[attr-defined]
    return generation


def test_guesses_are_those_of_transformers() -> None:
    rng = random.Random(0)
    for number in range(300):
        text = [rng.randint(0, 1 + number % 6) for _ in range(rng.randint(1, 40))]
        size, count, ends = rng.randint(1, 5), rng.randint(1, 6), {5} if number % 2 else set()
        theirs = PromptLookupCandidateGenerator(
            eos_token_id=torch.tensor(list(ends)) if ends else None,
            num_output_tokens=count,
            max_matching_ngram_size=size,
            max_length=100,
        )
        wanted = theirs.get_candidates(torch.tensor([text]))[0][0, len(text) :].tolist()
        ours = PromptLookup(text[:1], count, size, ends)
        ours.extend(text[1:])
        assert ours.guess() == wanted, (text, size, count)


@pytest.mark.parametrize(
    ("guesses", "chosen", "wanted"),
    [([], [7], (0, [7])), ([1, 2], [1, 2, 3], (0, [1, 2, 3])), ([1, 2], [1, 9], (1, [1, 9])), ([1, 2], [9], (2, [9]))],
)
def test_guesses_are_judged_one_by_one(guesses: list[int], chosen: list[int], wanted: tuple[int, list[int]]) -> None:
    taken: list[int] = []
    rejected, ended = judge(guesses, chosen.__getitem__, lambda token: bool(taken.append(token)))
    assert (rejected, taken, ended) == (*wanted, False)
    # Where the answer ends with a token that was guessed, the cache does not keep it, as in plain decoding.
    assert judge(guesses, chosen.__getitem__, lambda _token: True) == (len(guesses), True)


@pytest.mark.parametrize(
    ("length", "sampling"),
    zip([1, 6, 7, 8, 9, 15, 16, 17, 24, 25, 33], itertools.cycle((Sampling(logprobs=1), SAMPLED)), strict=False),
)
def test_guesses_right_up_to_anywhere(engine: Engine, guess_from: Any, length: int, sampling: Sampling) -> None:
    """Across windows and evictions; the cache that is left goes on as the plain one, to the prompt's end too."""
    prompt = tokens(1, length, seed=length)[0].tolist()
    engine._worker.slots.latest().clear()
    plain = answer(engine, prompt, 40, sampling=sampling)
    held, state = list(engine._worker.slots.latest().tokens), engine._worker.slots.latest()._rows.state()
    engine._worker.slots.latest().clear()
    made = guess_from(prompt + answer(engine, prompt, 60, sampling=sampling).found, length)
    engine._worker.slots.latest().clear()
    found = answer(engine, prompt, 40, 13, sampling=sampling)
    assert found.found == plain.found and len(made) == found.steps < plain.steps == 39
    assert engine._worker.slots.latest().tokens == held and engine._worker.slots.latest()._rows.state() == state
    assert any(right for right, _ in made) and any(wrong for _, wrong in made)
    for shared in (len(held), max(length - 3, 0)):
        if shared < len(held):
            engine._worker.slots.latest().clear()
            answer(engine, prompt, 40, 13, sampling=sampling)
        asked = [*held[:shared], 5, 6, 7]
        again = answer(engine, asked, 9)
        assert again.timings.reused >= min(shared, max(length - 8, 0))
        engine._worker.slots.latest().clear()
        assert answer(engine, asked, 9).found == again.found


def test_a_text_that_repeats_takes_fewer_steps(engine: Engine) -> None:
    plain = answer(engine, LOOPING, 120)
    found = answer(engine, LOOPING, 120, 6)
    assert found.found == plain.found and plain.steps == 119
    assert found.steps < 119, "some guesses were right"
    assert found.timings.tokens_per_second(120) > 0  # type: ignore[operator]


def test_ends_inside_a_run(engine: Engine, guess_from: Any) -> None:
    """Stop tokens, stop functions and lengths; the guesses behind the end are neither given nor kept."""
    whole = answer(engine, LOOPING, 30).found
    guess_from(LOOPING + whole, 1, right=1.0)
    for place in range(12):
        for more in ({"stop_ids": {whole[place]}}, {"stops": iter([False] * place + [True]).__next__}):
            if "stops" in more:
                more = {"stops": lambda _token, at=more["stops"]: at()}
            found = answer(engine, LOOPING, 30, 13, **more)
            end = whole.index(whole[place]) if "stop_ids" in more else place
            assert found.found == whole[: end + 1] and found.finish_reason == "stop"
            assert engine._worker.slots.latest().tokens == LOOPING + whole[:end]
        assert answer(engine, LOOPING, place + 1, 13).found == whole[: place + 1]


def test_up_to_the_last_row_of_the_cache(engine: Engine, guess_from: Any) -> None:
    for spare in (1, 2, 9):
        prompt = tokens(1, MAX_LENGTH - spare, seed=1)[0].tolist()
        plain = answer(engine, prompt, spare)
        guess_from(prompt + plain.found + [3] * 20, spare)
        assert answer(engine, prompt, spare, 13).found == plain.found


def test_what_is_refused(engine: Engine) -> None:
    for value in (0, -1, True, "3"):
        with pytest.raises(UnsupportedOptionError, match=r"prompt_lookup_num_tokens is .*; it must be at least 1"):
            engine.submit(Request([3], 1, prompt_lookup_num_tokens=value))  # type: ignore[arg-type]
