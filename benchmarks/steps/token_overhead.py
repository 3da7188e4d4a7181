"""What Python takes for a token of ``generate()`` outside ONNX Runtime: transformers' loop, the mirror, the session.

    python benchmarks/steps/token_overhead.py ARTIFACT

ARTIFACT is of `ort-cpu` and small, such as the tiny checkpoint's, so that the caches of the processor are not the
weights' alone. Medians (lowest to highest) of the rounds, in microseconds a token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from exaone_export import ExaoneForCausalLM

TOKENS = 300


class Clock:
    """Seconds in calls, by the calls' names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, name: str) -> None:
        """Time a method of one object from now on."""
        call: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, name, timed)


class Native:
    """ONNX Runtime's own object, whose methods can be replaced."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def main() -> None:
    """Measure, and print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, clock = ExaoneForCausalLM.from_pretrained(options.artifact, threads=1), Clock()
    session = model.session._session
    session._sess = Native(session._sess)
    clock.watch(session._sess, "run_with_iobinding")
    clock.watch(model.session, "step")
    clock.watch(model, "prepare_inputs_for_generation")
    # transformers calls the model, and Python looks that up in its class.
    call = type(model).__call__
    type(model).__call__ = lambda self, *args, **kwargs: clock_call(call, self, *args, **kwargs)

    def clock_call(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            clock.seconds["call"] = clock.seconds.get("call", 0.0) + time.perf_counter() - start

    input_ids = torch.arange(5, 37)[None]
    found: dict[str, list[float]] = {}
    for number in range(-1, options.rounds):
        clock.seconds.clear()
        start = time.perf_counter()
        model.generate(input_ids, max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
        total, at = time.perf_counter() - start, clock.seconds
        ours = at["call"] + at["prepare_inputs_for_generation"]
        parts = {
            "ONNX Runtime": at["run_with_iobinding"],
            "session": at["step"] - at["run_with_iobinding"],
            "mirror": ours - at["step"],
            "transformers": total - ours,
            "outside ONNX Runtime": total - at["run_with_iobinding"],
        }
        for name, seconds in parts.items() if number >= 0 else ():
            found.setdefault(name, []).append(1e6 * seconds / TOKENS)
    for name, values in found.items():
        print(f"{name:21} {statistics.median(values):6.0f} ({min(values):.0f} to {max(values):.0f}) us a token")


if __name__ == "__main__":
    main()
