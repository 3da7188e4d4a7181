"""Prompt lookup that decides for itself beside none and beside full guesses, on the engine, in turn.

    python benchmarks/adaptive_lookup.py ARTIFACT [--rounds 3] [--out FILE.json]

As ``benchmarks/prompt_lookup.py``, whose texts it takes: an answer is laid down that repeats its prompt but for a given
share of its tokens. Every step is the work of an answer that happened to be this one. The time counts from the first
token.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

from prompt_lookup import repeating, spread

from exaone_export.artifact.reader import Artifact
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.core.sampling import Sampler
from exaone_export.runtime.sessions.opening import open_session

WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "full": {"prompt_lookup_num_tokens": 10},
    "auto": {"prompt_lookup_num_tokens": 10, "lookup_adapts": True},
}


def decode(engine: Engine, text: list[int], prompt: int, way: str) -> tuple[float, float]:
    """Tokens a second, and tokens a step, of ``text`` behind its first ``prompt`` tokens."""
    left = iter(text[prompt:])
    with mock.patch.object(Sampler, "choose", lambda *_: (next(left), None)):
        generation = engine.submit(Request(text[:prompt], len(text) - prompt, **WAYS[way]))
        given = [token.id for token in generation]
    assert given == text[prompt:]
    speed = generation.timings.tokens_per_second(len(given))
    assert speed is not None
    return speed, (len(given) - 1) / generation.steps


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--prompt", type=int, default=64, help="Tokens of a prompt.")
    parser.add_argument("--new", type=int, default=96, help="Tokens of an answer.")
    parser.add_argument("--fresh", type=float, nargs="*", default=[0.0, 0.1, 0.3, 1.0], help="Shares that are new.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="Where the JSON is written too.")
    options = parser.parse_args()
    results = []
    with open_session(Artifact.open(options.artifact), threads=options.threads) as session, Engine(session) as engine:
        decode(engine, repeating(8, 8, 1.0, session.vocab_size, 0)[0].tolist(), 8, "none")
        for fresh in options.fresh:
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for number in range(options.rounds):
                text = repeating(options.prompt, options.new, fresh, session.vocab_size, number)[0].tolist()
                order = [*WAYS] if number % 2 else [*reversed(WAYS)]
                for way in order:
                    engine.perform(lambda slot, _: slot.clear(), ())
                    found[way].append(decode(engine, text, options.prompt, way))
            ratios = {
                way: [one[0] / other[0] for one, other in zip(found[way], found["none"], strict=True)] for way in WAYS
            }
            results.append(
                {
                    "fresh": fresh,
                    "tokens_per_second": {way: spread([speed for speed, _ in found[way]]) for way in WAYS},
                    "tokens_per_step": {way: spread([steps for _, steps in found[way]]) for way in WAYS},
                    "times_none": {way: spread(ratios[way]) for way in WAYS if way != "none"},
                }
            )
    text = json.dumps(
        {
            "artifact": options.artifact.name,
            "options": vars(options) | {"artifact": None, "out": None},
            "results": results,
        },
        indent=2,
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
