"""How fast an artifact of the 1.2B shape reads a prompt and answers, beside transformers compiled."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_suite.parts import Found

PROMPT, NEW, ROUNDS = 512, 64, 15
Generate = Callable[[torch.Tensor, int], Any]


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[tuple[Generate, Any]]:
    """An artifact's ``generate()``, and its model."""
    from exaone_export import ExaoneForCausalLM

    with ExaoneForCausalLM.from_pretrained(folder, verify=False) as model:
        options = {"do_sample": False, "eos_token_id": model.config.vocab_size, "pad_token_id": 0}
        yield lambda ids, new: model.generate(ids, max_new_tokens=new, min_new_tokens=new, **options), model


@contextlib.contextmanager
def compiled_transformers(folder: Path) -> Iterator[tuple[Generate, Any]]:
    """The fastest way of transformers: its forward is compiled where the cache is static."""
    from transformers import Exaone4ForCausalLM

    model = Exaone4ForCausalLM.from_pretrained(folder, dtype=torch.float16).to("cuda").eval()
    options = {"do_sample": False, "cache_implementation": "static"}
    yield lambda ids, new: model.generate(ids, max_new_tokens=new, min_new_tokens=new, **options), None


def measure(opener: Callable[[], AbstractContextManager[tuple[Generate, Any]]], bound: float) -> Found:
    """Medians of `ROUNDS` calls of ``generate()``: one new token is prefill, the others are decode.

    Args:
        opener: Gives ``generate`` and, for an artifact, its model.
        bound: Seconds a token that reading the weights takes.
    """
    ids = torch.randint(3, 102_400, (1, PROMPT), generator=torch.Generator().manual_seed(0)).to("cuda")
    start = time.perf_counter()
    with opener() as (generate, model):
        load = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(5):  # kernels are compiled, and graphs captured, in the first calls
            timed(lambda: generate(ids, 1))
            timed(lambda: generate(ids, 1 + NEW))
        warm = time.perf_counter() - start
        first = [timed(lambda: generate(ids, 1)) for _ in range(ROUNDS)]
        whole = [timed(lambda: generate(ids, 1 + NEW)) for _ in range(ROUNDS)]
        steps = [step_seconds(model, ids) for _ in range(ROUNDS)] if model is not None else None
        free, total = torch.cuda.mem_get_info()
    tokens = [(seconds - statistics.median(first)) / NEW for seconds in whole]
    found = {
        "prefill tok/s": round(PROMPT / statistics.median(first)),
        "generate() ms a token": spread(tokens),
        "share of the bandwidth bound": round(bound / statistics.median(tokens), 3),
        "GPU GiB in use": round((total - free) / 2**30, 2),
        "load s": round(load, 1),
        "warm up s": round(warm, 1),
    }
    return found if steps is None else found | {"decode loop ms a token": spread(steps)}


def step_seconds(model: Any, ids: torch.Tensor) -> float:
    """Seconds a token of the session's own loop: a step, its most likely token, and that token on the host."""
    from exaone_export.runtime.core.steps import Step

    cache = model.new_cache()
    token = int(model(ids, past_key_values=cache, logits_to_keep=1).logits[0, -1].argmax())
    buffers, columns = cache.buffers, ids.shape[1]

    def loop(steps: int) -> None:
        nonlocal token, columns
        for _ in range(steps):
            (logits,) = model.session.step(Step(np.array([[token]]), [columns], [1]), buffers)
            token, columns = int(logits[0, 0].argmax()), columns + 1

    loop(2)  # captures, where these buffers are new
    return timed(lambda: loop(NEW)) / NEW


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call, all of the GPU's work included."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(seconds: list[float]) -> list[float]:
    """Lowest, median and highest, in milliseconds."""
    return [round(1e3 * value, 3) for value in (min(seconds), statistics.median(seconds), max(seconds))]


def compared(results: dict[str, Found], base: str) -> Found:
    """Times as fast as ``base``, by system, of the medians."""
    found: Found = {}
    if "generate() ms a token" not in results[base]:
        return {"not run": f"{base} gave no time to compare with."}
    wanted = results[base]["generate() ms a token"][1]
    for name, result in results.items():
        keys = [
            key
            for key in ("generate() ms a token", "engine ms a token", "decode loop ms a token")
            if key in result and name != base
        ]
        found |= {f"{name}: {key.removesuffix(' ms a token')}": round(wanted / result[key][1], 2) for key in keys}
    return found
