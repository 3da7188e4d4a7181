"""Prompt lookup against the plain loop of the same model: the same tokens from right guesses, wrong ones and none."""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from exaone_export.errors import UnsupportedOptionError
from exaone_export.runtime.core.answering.prompt_lookup import PromptLookup
from exaone_export.runtime.mirror.prompt_lookup import Chooser, decode
from tests.runtime.conftest import MAX_LENGTH, VOCAB, tokens
from tests.runtime.mirror.test_cache import Model, new_cache
from tests.runtime.mirror.test_generation import word_tokenizer

PLAIN = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False}
LOOPING = tokens(1, 9, seed=3).repeat(1, 5)
FULL = {"return_dict_in_generate": True, "output_logits": True}
# Windows of 8; caches of 8, 16 and 16 rows, the last with room for a step of 16 behind them.
BOUNDARIES = [1, 6, 7, 8, 9, 15, 16, 17, 24, 25, 33]


@pytest.fixture
def guess_from(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """Replace the lookup: ``guess_from(answer, seed, longest)`` guesses that answer, up to a random place."""

    def replace(answer: torch.Tensor, seed: int, longest: int, right: float | None = None) -> list[tuple[int, int]]:
        rng, made = random.Random(seed), []

        def guess(lookup: PromptLookup) -> list[int]:
            length = len(lookup.tokens)
            count = rng.randint(0, longest)
            true = rng.randint(0, count) if right is None else int(right * count)
            guesses = answer[:, length : length + true]
            # Tokens that are certainly wrong, because they are one above the true ones.
            wrong = (answer[:, length + guesses.shape[1] : length + count] + 1) % VOCAB
            made.append((guesses.shape[1], wrong.shape[1]))
            return [*guesses[0].tolist(), *wrong[0].tolist()]

        monkeypatch.setattr(PromptLookup, "guess", guess)
        return made

    return replace


class TestBoundaries:
    """Guesses across windows, evictions and their way back."""

    @pytest.mark.parametrize("length", BOUNDARIES)
    def test_guesses_right_up_to_anywhere(self, model: Any, guess_from: Any, length: int) -> None:
        prompt = tokens(1, length, seed=length)
        plain = model.generate(prompt, max_new_tokens=24, **PLAIN, **FULL)
        # One token more than is given, so that guesses may pass the end.
        beyond = model.generate(plain.sequences, max_new_tokens=14, **PLAIN)
        made = guess_from(beyond, length, 13)
        found = model.generate(prompt, max_new_tokens=24, prompt_lookup_num_tokens=13, **PLAIN, **FULL)
        assert torch.equal(found.sequences, plain.sequences)
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(plain.logits), rtol=0, atol=5e-5)
        assert any(right for right, _ in made)
        assert any(wrong for _, wrong in made)
        assert found.past_key_values.lengths == plain.past_key_values.lengths == [length + 23]
        # The cache that comes back is the plain one.
        on = torch.cat((plain.sequences, tokens(1, 3)), 1)
        logits = [model(on[:, length + 23 :], past_key_values=side.past_key_values).logits for side in (found, plain)]
        torch.testing.assert_close(*logits, rtol=0, atol=5e-5)

    def test_all_guesses_wrong(self, model: Any, guess_from: Any) -> None:
        prompt = tokens(1, 5)
        plain = model.generate(prompt, max_new_tokens=40, **PLAIN)
        guess_from(torch.cat((plain, tokens(1, 20)), 1), 0, 12, right=0.0)
        assert torch.equal(model.generate(prompt, max_new_tokens=40, prompt_lookup_num_tokens=12, **PLAIN), plain)

    @pytest.mark.parametrize("guesses", [3, 30])
    def test_prompts_of_every_length(self, model: Any, guesses: int) -> None:
        for length in range(2, 40, 5):
            prompt = tokens(1, 1 + length % 7, seed=length).repeat(1, 40)[:, :length]
            plain = model.generate(prompt, max_new_tokens=9, **PLAIN)
            found = model.generate(prompt, max_new_tokens=9, prompt_lookup_num_tokens=guesses, **PLAIN)
            assert torch.equal(found, plain), length

    def test_up_to_the_last_row_of_the_cache(self, model: Any, guess_from: Any) -> None:
        for spare in (1, 2, 9):
            prompt = tokens(1, MAX_LENGTH - spare)
            plain = model.generate(prompt, max_new_tokens=spare, **PLAIN)
            guess_from(torch.cat((plain, tokens(1, 20)), 1), spare, 13)
            found = model.generate(prompt, max_new_tokens=spare, prompt_lookup_num_tokens=13, **PLAIN)
            assert torch.equal(found, plain)

    def test_a_cache_is_gone_on_from(self, model: Any) -> None:
        options = {"max_new_tokens": 12, "return_dict_in_generate": True, **PLAIN}
        plain = model.generate(LOOPING, **options)
        found = model.generate(LOOPING, prompt_lookup_num_tokens=6, **options)
        for turn in range(3):
            more = torch.cat((plain.sequences, LOOPING[:, turn : turn + 11]), 1)
            plain = model.generate(more, past_key_values=plain.past_key_values, **options)
            found = model.generate(more, past_key_values=found.past_key_values, prompt_lookup_num_tokens=6, **options)
            assert torch.equal(found.sequences, plain.sequences)
        alone = torch.cat((plain.sequences[:, -1:], LOOPING[:, :11]), 1)
        mask = torch.ones(1, plain.sequences.shape[1] + 11, dtype=torch.int64)
        options |= {"attention_mask": mask}
        assert torch.equal(
            model.generate(
                alone, past_key_values=found.past_key_values, prompt_lookup_num_tokens=6, **options
            ).sequences,
            model.generate(alone, past_key_values=plain.past_key_values, **options).sequences,
        )

    def test_the_returned_cache_keeps_nothing_more(self, model: Any) -> None:
        options = {"max_new_tokens": 12, "return_dict_in_generate": True, **PLAIN}
        cache = model.generate(LOOPING, prompt_lookup_num_tokens=6, **options).past_key_values
        for _ in range(20):
            model(LOOPING[:, :1], past_key_values=cache)
        assert not cache.rows.is_recording


class TestCache:
    """`HybridCache.guessing`, against a plain list."""

    def test_random_histories(self) -> None:
        rng, split = random.Random(0), 0
        for number in range(12):
            model = Model(new_cache(number % 2 == 0), [number % 3])
            with model.cache.guessing():
                while model.columns < 50:
                    width = rng.randint(1, 14)
                    kept = width if model.columns else rng.randint(1, width)
                    model.feed(width, kept=kept)
                    model.check()
                    split += model.cache.rows.is_recording
                    model.crop(rng.randint(0, kept - 1 if model.columns - kept >= number % 3 else 0))
                    model.check()
        assert split

    def test_nothing_is_kept_that_no_guess_pushes_out(self) -> None:
        model = Model(new_cache(), [0])
        with model.cache.guessing():
            model.feed(3)
            assert model.cache.begin(2, 2) == 2
            model.feed(1)
            assert model.cache.begin(2, 2) == 0
            assert model.cache.begin(1, 1) == 1


class TestWhatAnAnswerGoesThrough:
    """Stops, processors and streamers see each token once, in order."""

    @pytest.fixture
    def right(self, model: Any, guess_from: Any) -> torch.Tensor:
        """The plain answer, which is guessed in runs of up to 8 from here on."""
        plain = model.generate(LOOPING, max_new_tokens=30, **PLAIN)
        guess_from(plain, 1, 8, right=1.0)
        return plain

    def test_runs_are_taken(self, model: Any, right: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        steps, step = [], model.session.step
        monkeypatch.setattr(
            model.session, "step", lambda *inputs: (steps.append(len(inputs[0].kept)), step(*inputs))[1]
        )
        found = model.generate(LOOPING, max_new_tokens=30, prompt_lookup_num_tokens=8, **PLAIN)
        assert torch.equal(found, right)
        judged = [kept for kept in steps if kept]
        assert sum(judged) == 30
        assert len(judged) < 15

    @pytest.mark.parametrize("new", range(1, 12))
    def test_a_length_in_a_run(self, model: Any, right: torch.Tensor, new: int) -> None:
        found = model.generate(LOOPING, max_new_tokens=new, prompt_lookup_num_tokens=8, **PLAIN)
        assert torch.equal(found, right[:, : 45 + new])

    def test_an_end_of_text_in_a_run(self, model: Any, right: torch.Tensor) -> None:
        for place in range(45, 60):
            options = PLAIN | {"eos_token_id": int(right[0, place]), "max_new_tokens": 30}
            found = model.generate(LOOPING, prompt_lookup_num_tokens=8, **options)
            first = 45 + right[0, 45:].tolist().index(int(right[0, place]))
            assert torch.equal(found, right[:, : first + 1])

    def test_a_criterion_in_a_run(self, model: Any, right: torch.Tensor) -> None:
        class Counts(StoppingCriteria):
            def __init__(self, calls: int) -> None:
                self.calls, self.seen = calls, []

            def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
                self.seen.append(input_ids.clone())
                return torch.tensor([len(self.seen) == self.calls])

        for calls in range(1, 12):
            criterion = Counts(calls)
            found = model.generate(
                LOOPING, stopping_criteria=[criterion], max_new_tokens=30, prompt_lookup_num_tokens=8, **PLAIN
            )
            assert torch.equal(found, right[:, : 45 + calls])
            assert all(torch.equal(seen, right[:, : 46 + i]) for i, seen in enumerate(criterion.seen))

    def test_a_stop_string_in_a_run(self, model: Any, right: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        tokenizer = word_tokenizer()
        options = PLAIN | {"max_new_tokens": 30, "tokenizer": tokenizer}
        for place in range(45, 60):
            stop = tokenizer.decode(right[:, place])[0]
            plain = model.generate(LOOPING, stop_strings=stop, **options)
            found = model.generate(LOOPING, stop_strings=[stop], prompt_lookup_num_tokens=8, **options)
            assert torch.equal(found, plain) and found.shape[1] < 75
        # Those of the model's own defaults count too.
        monkeypatch.setattr(model.generation_config, "stop_strings", [stop])
        assert torch.equal(model.generate(LOOPING, prompt_lookup_num_tokens=8, **options), plain)
        config = GenerationConfig(prompt_lookup_num_tokens=8, eos_token_id=None, pad_token_id=0, max_new_tokens=30)
        assert torch.equal(model.generate(LOOPING, config, tokenizer=tokenizer), plain)

    def test_a_streamer(self, model: Any, right: torch.Tensor) -> None:
        class Streamer:
            def __init__(self) -> None:
                self.given, self.ended = [], 0

            def put(self, value: torch.Tensor) -> None:
                self.given.append(value.tolist())

            def end(self) -> None:
                self.ended += 1

        streamers = Streamer(), Streamer()
        for streamer, more in zip(streamers, ({}, {"prompt_lookup_num_tokens": 8}), strict=True):
            model.generate(LOOPING, streamer=streamer, max_new_tokens=30, **PLAIN, **more)
            assert streamer.ended == 1
        assert streamers[0].given == streamers[1].given == [right[:, :45].tolist(), *right[0, 45:, None].tolist()]

    def test_a_processor_with_a_state_of_its_own(self, model: Any, guess_from: Any) -> None:
        class Grammar(LogitsProcessor):
            """Follows the newest token, as a grammar's automaton does, and forbids what depends on all of them."""

            def __init__(self) -> None:
                self.state, self.calls = 0, 0

            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                self.state, self.calls = (3 * self.state + int(input_ids[0, -1])) % VOCAB, self.calls + 1
                return scores.index_fill_(1, (torch.arange(60) + self.state) % VOCAB, -torch.inf)

        for sampled in ({}, {"do_sample": True, "temperature": 1e-5}):
            options = PLAIN | {"max_new_tokens": 25} | sampled
            plain = model.generate(LOOPING, logits_processor=[Grammar()], **options)
            guess_from(plain, 2, 7)
            grammar = Grammar()
            found = model.generate(LOOPING, logits_processor=[grammar], prompt_lookup_num_tokens=7, **options)
            assert torch.equal(found, plain)
            assert grammar.calls == 25

    @pytest.mark.parametrize("more", [{"guidance_scale": 1.7}, {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}])
    def test_processors_of_transformers(self, model: Any, guess_from: Any, more: dict[str, Any]) -> None:
        plain = model.generate(LOOPING, max_new_tokens=25, **PLAIN, **more)
        guess_from(plain, 3, 7)
        assert torch.equal(
            model.generate(LOOPING, max_new_tokens=25, prompt_lookup_num_tokens=7, **PLAIN, **more), plain
        )


class TestSampling:
    """The law of a Markov chain whose answers can be counted."""

    LOGITS = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5], [-torch.inf, 0.3, 0.0]])

    @pytest.mark.parametrize("guesses", [[], [1, 0, 2], [2, 2, 0]])
    def test_the_law_is_the_chains(self, guesses: list[int]) -> None:
        torch.manual_seed(0)
        runs, length = 600, 3
        answers = Counter(self._answer(guesses, length) for _ in range(runs))
        chain = self.LOGITS.softmax(-1)
        deviation, free = 0.0, -1
        for answer in itertools.product(range(3), repeat=length):
            path = (0, *answer)
            expected = runs * float(torch.stack([chain[a, b] for a, b in itertools.pairwise(path)]).prod())
            if expected:
                deviation += (answers[answer] - expected) ** 2 / expected
                free += 1
            else:
                assert not answers[answer]
        # The mean and the variance of a chi-square distribution are its degrees of freedom and twice as much.
        assert deviation < free + 4 * (2 * free) ** 0.5

    def _answer(self, guesses: list[int], length: int) -> tuple[int, ...]:
        chooser = Chooser([], lambda ids, _: torch.tensor([ids.shape[1] > length]), do_sample=True)
        found = decode(
            torch.zeros(1, 1, dtype=torch.int64),
            chooser,
            guess=lambda _ids: guesses,
            step=lambda ids, kept: self.LOGITS[ids[:, -kept:]],
            take_back=lambda _: None,
            longest=length + 1,
        )
        return tuple(found[0, 1:].tolist())

    def test_probabilities_that_are_none(self) -> None:
        with pytest.raises(RuntimeError, match="nan"):
            Chooser([], lambda *_: torch.tensor([True]), do_sample=True).choose(
                torch.zeros(1, 1), torch.full((1, 3), torch.nan), torch.ones(3)
            )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "prompt_lookup_num_tokens is not supported with num_beams=2"),
        ({"num_return_sequences": 2, "do_sample": True}, "with num_return_sequences=2"),
        ({"use_cache": False}, "with use_cache=False"),
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens is 0; it must be at least 1"),
        ({"max_matching_ngram_size": 0}, "max_matching_ngram_size is 0; it must be at least 1"),
        ({"assistant_ensemble_weight": 0.5}, "assistant_ensemble_weight is not supported with prompt_lookup"),
        ({"inputs": LOOPING.repeat(2, 1)}, "for a batch of 2 rows; pass one prompt at a time"),
        ({"assistant_model": None}, "assistant_model is not supported with prompt_lookup_num_tokens"),
    ],
)
def test_what_it_does_not_go_with(model: Any, options: dict[str, Any], message: str) -> None:
    options = {"inputs": LOOPING, "prompt_lookup_num_tokens": 3, **copy.copy(options)}
    if "assistant_model" in options:
        options["assistant_model"] = model
    with pytest.raises(UnsupportedOptionError, match=message):
        model.generate(max_new_tokens=4, **(PLAIN | options))


def test_a_configuration_is_refused_too(model: Any) -> None:
    config = GenerationConfig(prompt_lookup_num_tokens=3, num_beams=2, max_new_tokens=4)
    with pytest.raises(UnsupportedOptionError, match="num_beams=2"):
        model.generate(LOOPING, generation_config=config)
