"""How soon an answer ends that is cancelled inside a step of seconds, and whether the next one is right.

    python benchmarks/cancel_latency.py [--hidden 2048] [--layers 8] [--prompt 500] [--rounds 5] [--threads N]

A random checkpoint of that size is made and exported in a temporary folder: a prefill step of 128 tokens takes
seconds, a decode step some tenths of one. In each round one answer is cancelled in its prompt, at another place every
time, and one behind its second token; the time counts from the call of ``cancel`` until the answer's iteration has
ended. Behind each of them the same question is asked again, and its tokens must be those of an engine that was never
cancelled.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from transformers import Exaone4Config, Exaone4ForCausalLM

from exaone_export.artifact.reader import Artifact
from exaone_export.exporter.export import export
from exaone_export.runtime.core.engine import Engine
from exaone_export.runtime.core.requests import Request
from exaone_export.runtime.sessions.opening import open_session

VOCAB = 4096


def save_checkpoint(folder: Path, hidden: int, layers: int) -> None:
    """Random weights, three local layers to a global one."""
    torch.manual_seed(0)
    heads = hidden // 128
    config = Exaone4Config(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 4, 1),
        head_dim=128,
        max_position_embeddings=4096,
        sliding_window=256,
        layer_types=["full_attention" if i % 4 == 3 else "sliding_attention" for i in range(layers)],
        tie_word_embeddings=False,
        eos_token_id=2,
    )
    Exaone4ForCausalLM(config).save_pretrained(folder)


def answer(engine: Engine, prompt: list[int]) -> list[int]:
    """Six greedy tokens."""
    return [token.id for token in engine.submit(Request(prompt, 6))]


def cancelled(engine: Engine, prompt: list[int], tokens: int, after: float) -> float:
    """Seconds from a cancellation, so many of them behind so many tokens, until the answer has ended."""
    generation = engine.submit(Request(prompt, 64))
    found = iter(generation)
    for _ in range(tokens):
        next(found)
    time.sleep(after)
    began = time.perf_counter()
    generation.cancel()
    for _ in found:
        pass
    assert generation.finish_reason == "cancelled", generation.finish_reason
    return time.perf_counter() - began


def main() -> None:
    """Make the model, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("hidden", 2048), ("layers", 8), ("prompt", 500), ("rounds", 5), ("threads", None)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    rng = random.Random(0)
    prompt = [rng.randrange(3, VOCAB) for _ in range(arguments.prompt)]
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder, "model"), Path(folder, "out")
        save_checkpoint(model, arguments.hidden, arguments.layers)
        export(model, out, target="ort-cpu", max_length=1024, precision="float32")
        with open_session(Artifact.open(out), threads=arguments.threads) as session:
            with Engine(session) as engine:
                first = engine.submit(Request(prompt, 6))
                wanted = [token.id for token in first]
            took, rate = first.timings.time_to_first_token or 0.0, first.timings.tokens_per_second(6) or 1.0
            print(f"prompt of {len(prompt)}: {took:.2f} s; {1 / rate:.3f} s a token")
            with Engine(session) as engine:
                for name, tokens, longest in (("prompt", 0, 0.9 * took), ("answer", 2, 2 / rate)):
                    seconds = []
                    for _ in range(arguments.rounds):
                        answer(engine, [3, 4, 5])  # the next prompt begins anew
                        seconds.append(cancelled(engine, prompt, tokens, rng.uniform(0, longest)))
                        found = answer(engine, prompt)
                        assert found == wanted, (name, found, wanted)
                    listed = ", ".join(f"{each:.3f}" for each in sorted(seconds))
                    print(f"cancelled in the {name}: ended after {listed} s; the next answer was right each time")


if __name__ == "__main__":
    main()
