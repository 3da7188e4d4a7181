"""Ten turns of one conversation: the mirror's tokens and transformers', with the cache gone on from and without."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.core.sampling import Sampling
from exaone_export.runtime.mirror.causal_lm import ExaoneForCausalLM
from exaone_export.runtime.runner.chat import Chat
from exaone_export.runtime.runner.runner import Runner
from exaone_export.runtime.sessions.opening import open_session
from exaone_export.runtime.text.chat import ChatFormat
from tests.conftest import TINY
from tests.runtime.conftest import tokens


def plain(model: Any, prompt: list[int], new: int, **options: Any) -> list[int]:
    """Greedy tokens behind a prompt."""
    import torch

    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, **options)
    return found[0, len(prompt) :].tolist()


def is_greedy(model: Any, prompt: list[int], answer: list[int]) -> bool:
    """Whether every token of an answer is the best of transformers' logits behind what is before it."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return bool(logits.argmax(-1).tolist() == answer)


def test_with_reasoning_on_the_trained_checkpoint(export_artifact: Callable[..., Path]) -> None:
    """The template drops past reasoning, so every prompt differs from what the cache holds behind the last question."""
    from transformers import Exaone4ForCausalLM

    folder = export_artifact(TINY, "ort-cpu", max_length=2048)
    reference, reused = Exaone4ForCausalLM.from_pretrained(TINY).eval(), []
    with Runner.open(folder, threads=1) as runner, ExaoneForCausalLM.from_pretrained(folder, threads=1) as mirror:
        chat, form = Chat(runner, enable_thinking=True, max_new_tokens=60), ChatFormat(runner.tokenizer)
        for turn in range(10):
            asked = {"role": "user", "content": f"What is {20 + turn} + {31 + 3 * turn}?"}
            prompt = form.encode([*chat.messages, asked], enable_thinking=True)
            said = chat.send(asked)
            said.read()
            found = list(said.tokens)
            assert plain(mirror, prompt, 60) == found and is_greedy(reference, prompt, found), turn
            with Runner.from_artifact(runner.artifact, tokenizer=runner.tokenizer, threads=1) as fresh:
                cold = fresh.generate(prompt, max_new_tokens=60)
                cold.read()
                assert cold.tokens == found and cold.timings.reused == 0, turn
            reused.append(said.timings.reused)
    assert len(prompt) > 3 * 32 and all(reused[3:])


def test_past_three_windows_of_a_random_hybrid(artifacts: dict[str, Path], reference: Any) -> None:
    """A part of each answer is dropped, as reasoning is."""
    options = {"eos_token_id": None, "pad_token_id": 0}
    with (
        open_session(Artifact.open(artifacts["ort-cpu"]), threads=1) as session,
        ExaoneForCausalLM.from_pretrained(artifacts["ort-cpu"], threads=1) as mirror,
        Engine(session, prefill_chunk_size=7) as engine,
    ):
        history: list[int] = tokens(1, 18, seed=3)[0].tolist()
        for turn in range(10):
            generation = engine.submit(Request(history, 12))
            found = [token.id for token in generation]
            with Engine(session) as fresh:
                assert [token.id for token in fresh.submit(Request(history, 12))] == found, turn
            assert plain(mirror, history, 12, **options) == found and is_greedy(reference, history, found), turn
            assert bool(generation.timings.reused) == bool(turn)
            history = [*history[:-2], 4, *found[6:10], *tokens(1, 3, seed=turn)[0].tolist()]
    assert len(history) > 3 * 8


@pytest.mark.parametrize("first", [0, 1])
def test_a_seed_gives_its_tokens_in_either_order_of_two_threads(artifacts: dict[str, Path], first: int) -> None:
    requests = [Request(tokens(1, 9 + i)[0].tolist(), 30, Sampling(temperature=1.5, seed=i)) for i in range(2)]
    with open_session(Artifact.open(artifacts["ort-cpu"]), threads=1) as session, Engine(session) as engine:
        alone = [[token.id for token in engine.submit(request)] for request in requests]
        found: dict[int, list[int]] = {}
        submitted = threading.Event()

        def ask(index: int) -> None:
            if index != first:
                assert submitted.wait(60)
            generation = engine.submit(requests[index])
            submitted.set()
            found[index] = [token.id for token in generation]

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[0], found[1]] == alone and alone[0] != alone[1]
