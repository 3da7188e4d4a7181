"""The engine, behind which `Runner`, `Chat` and the commands generate, beside `ExaoneForCausalLM` on one artifact.

Both run on one session, in threads of their own. The engine cuts a prompt into other steps, so that the last bits of
logits differ: a token is right if it is the best of the mirror's logits, or as good as that up to rounding.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_suite.parts import Found

PROMPT, ANSWER, TURNS, CHUNK = 90, 40, 10, 32
TIMED_PROMPT, NEW, ROUNDS = 512, 64, 9
SLOTS, TIMED_NEW = 4, 128
ROUNDING = {"float32": 1e-3, "float16": 5e-2, "int4": 5e-2, "bfloat16": 2e-1}
"""What a token's logit may be below the best one, as a share of the logits' standard deviation."""


class _Judge:
    """Holds answers to what the mirror says of the same tokens in one call.

    Attributes:
        worst: The largest share of a standard deviation by which a token was below the best one.
        tokens: That were judged.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.worst, self.tokens = 0.0, 0

    def __call__(self, prompt: list[int], answer: list[int]) -> None:
        ids = torch.tensor([[*prompt, *answer[:-1]]])
        logits_NV = self._model(ids).logits[0, len(prompt) - 1 :].float().cpu()
        chosen_N = logits_NV[torch.arange(len(answer)), torch.tensor(answer)]
        below = float(((logits_NV.max(-1).values - chosen_N) / logits_NV.std(-1)).max())
        self.worst, self.tokens = max(self.worst, below), self.tokens + len(answer)


def compare(folder: Path, precision: str) -> Found:
    """Answers, ten turns, prompt lookup, cancelled prompts and a kept prompt, held to the mirror on the same session.

    Args:
        folder: An artifact of a causal language model.
        precision: Its own.
    """
    from exaone_export import ExaoneForCausalLM
    from exaone_export.runtime.core.engine import Engine

    with ExaoneForCausalLM.from_pretrained(folder, verify=False) as model:
        judge, found = _Judge(model), Found()
        with Engine(model.session, prefill_chunk_size=CHUNK) as engine:
            prompt = random_tokens(model, PROMPT, 0)
            answer, _ = ask(engine, prompt)
            judge(prompt, answer)
            options = {"do_sample": False, "eos_token_id": model.config.vocab_size, "pad_token_id": 0}
            plain = model.generate(torch.tensor([prompt]), max_new_tokens=ANSWER, **options)[0, PROMPT:].tolist()
            found["tokens of generate()"] = sum(a == b for a, b in zip(answer, plain, strict=True)) / ANSWER
            found["reused in ten turns"], problems = _turns(engine, model, judge)
            guessed, _ = ask(engine, prompt * 2, prompt_lookup_num_tokens=6)
            judge(prompt * 2, guessed)
            problems += _cancelled(engine, prompt[::-1], judge)
            problems += _kept(engine, model, prompt, judge)
    found |= {"tokens": judge.tokens, "worst token below the best, in deviations": round(judge.worst, 4)}
    if not judge.worst <= ROUNDING[precision]:  # a NaN fails
        problems.append("the engine's tokens depart from the mirror's")
    return found | ({"failed": "; ".join(problems)} if problems else {})


def chat(folder: Path) -> Found:
    """Ten turns of `Chat` with the tiny checkpoint, which knows the first answer; what each took from the cache."""
    from exaone_export import Chat, Runner

    reused, first = list[int](), ""
    with Runner.open(folder, verify=False) as runner:
        conversation = Chat(runner, max_new_tokens=24)
        for turn in range(TURNS):
            reply = conversation.send(f"What is {21 + turn} + {48 - 2 * turn}?")
            first = first or "".join(reply).strip()
            reply.read()
            reused.append(reply.timings.reused)
    found: Found = {"first reply": first, "reused": reused}
    if first != "69":
        found["failed"] = "the first reply is wrong"
    if not all(reused[1:]):
        found["failed"] = "a turn of the conversation did not go on from the cache"
    return found


def at_once(folder: Path, precision: str) -> Found:
    """Answers of different lengths that are generated at once, three for every slot, held to the mirror.

    Args:
        folder: An artifact of a causal language model.
        precision: Its own.
    """
    from exaone_export import ExaoneForCausalLM
    from exaone_export.runtime.core.engine import Engine
    from exaone_export.runtime.core.requests import Request

    with ExaoneForCausalLM.from_pretrained(folder, verify=False) as model:
        judge = _Judge(model)
        with Engine(model.session, slots=SLOTS, prefill_chunk_size=CHUNK) as engine:
            prompts = [random_tokens(model, PROMPT - 3 * row, row) for row in range(3 * SLOTS)]
            asked = [engine.submit(Request(prompt, ANSWER - row)) for row, prompt in enumerate(prompts)]
            answers = [[token.id for token in each] for each in asked]
        for prompt, answer in zip(prompts, answers, strict=True):
            judge(prompt, answer)
    found: Found = {"tokens": judge.tokens, "worst token below the best, in deviations": round(judge.worst, 4)}
    if not judge.worst <= ROUNDING[precision]:  # a NaN fails
        found["failed"] = "the tokens of answers at once depart from the mirror's"
    return found


def throughput(folder: Path) -> Found:
    """Tokens a second of 1, 8 and 32 answers of `TIMED_NEW` tokens at once, behind prompts of 128.

    Args:
        folder: An artifact of the 1.2B shape.
    """
    from exaone_export.artifact.reader import Artifact
    from exaone_export.runtime.core.engine import Engine
    from exaone_export.runtime.core.requests import Request
    from exaone_export.runtime.sessions.opening import open_session

    found = Found()
    with open_session(Artifact.open(folder, verify=False)) as session:
        for slots in (1, 8, 32):
            with Engine(session, slots=slots) as engine:
                for seed in (0, 1):  # graphs are captured in the first
                    prompts = [random_tokens(session, 128, 100 * seed + row) for row in range(slots)]
                    asked = [engine.submit(Request(prompt, TIMED_NEW)) for prompt in prompts]
                    for each in asked:
                        list(each)
                spent = max(each.timings.last_token for each in asked) - max(each.timings.first_token for each in asked)
                found[f"tok/s of {slots}"] = round(slots * TIMED_NEW / spent)
    return found


def speed(folder: Path, bound: float) -> Found:
    """Medians of `ROUNDS` answers by the engine behind a prompt that it has not seen.

    Args:
        folder: An artifact of the 1.2B shape.
        bound: Seconds a token that reading the weights takes.
    """
    from exaone_export.artifact.reader import Artifact
    from exaone_export.runtime.core.engine import Engine
    from exaone_export.runtime.sessions.opening import open_session

    start = time.perf_counter()
    session = open_session(Artifact.open(folder, verify=False))
    with session, Engine(session) as engine:
        load, first, each = time.perf_counter() - start, list[float](), list[float]()
        for seed in range(ROUNDS + 4):  # graphs are captured in the first answers
            _, times = ask(engine, random_tokens(session, TIMED_PROMPT, seed), 1 + NEW)
            first.append(times.first_token - times.begun)
            each.append((times.last_token - times.first_token) / NEW)
        first, each = first[4:], each[4:]
    return {
        "prefill tok/s": round(TIMED_PROMPT / statistics.median(first)),
        "engine ms a token": [round(1e3 * value, 3) for value in (min(each), statistics.median(each), max(each))],
        "share of the bandwidth bound": round(bound / statistics.median(each), 3),
        "load s": round(load, 1),
    }


def random_tokens(model: Any, count: int, seed: int) -> list[int]:
    """Token ids for a model or a session."""
    size = getattr(model, "vocab_size", None) or model.config.vocab_size
    found: list[int] = torch.randint(3, size, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def ask(engine: Any, prompt: list[int], new: int = ANSWER, **options: Any) -> tuple[list[int], Any]:
    """The tokens of a greedy answer, and its `Timings`."""
    from exaone_export.runtime.core.requests import Request

    generation = engine.submit(Request(prompt, new, **options))
    return [token.id for token in generation], generation.timings


def _turns(engine: Any, model: Any, judge: _Judge) -> tuple[int, list[str]]:
    """Turns that each go on from the whole answer, or from a part of it, as where reasoning is dropped."""
    history, reused, problems = random_tokens(model, 18, 3), 0, list[str]()
    for turn in range(TURNS):
        answer, times = ask(engine, history, 8)
        judge(history, answer)
        reused += times.reused
        if turn % 2 and not times.reused:  # behind a whole answer
            problems.append(f"turn {turn} did not go on from the cache")
        history = [*history, *(answer if turn % 2 == 0 else answer[4:]), *random_tokens(model, 3, turn)]
    return reused, problems


def _cancelled(engine: Any, prompt: list[int], judge: _Judge) -> list[str]:
    """Cancel behind the prompt's first step, and at some moment of another; the next answers must be right."""
    from exaone_export.runtime.core.requests import Request

    def cancel(_: str, done: int, total: int) -> None:
        if 0 < done < total:
            generation.cancel()

    generation = engine.submit(Request(prompt, ANSWER, progress=cancel))
    said = list(generation)
    problems = [] if generation.finish_reason == "cancelled" and not said else ["a cancelled prompt went on"]
    judge(prompt, ask(engine, prompt)[0])
    other = prompt[1:] + prompt[:1]
    generation = engine.submit(Request(other, ANSWER))
    time.sleep(0.003)
    generation.cancel()
    list(generation)
    judge(other, ask(engine, other)[0])
    return problems


def _kept(engine: Any, model: Any, prompt: list[int], judge: _Judge) -> list[str]:
    """Save what the engine holds of a prompt, and go on from the file."""
    with tempfile.TemporaryDirectory() as folder:
        path, identity = Path(folder) / "kept", "a" * 64
        ask(engine, prompt)
        saved = engine.perform(lambda slot, cancellation: slot.save(path, identity, cancellation))
        held = list(engine.perform(lambda slot, _: slot.tokens))
        ask(engine, random_tokens(model, 20, 9))
        loaded = engine.perform(lambda slot, cancellation: slot.load(path, identity, cancellation))
    asked = [*held, *random_tokens(model, 5, 4)]
    answer, times = ask(engine, asked)
    judge(asked, answer)
    return [] if saved == loaded == times.reused == len(held) else ["a kept prompt was not gone on from"]
