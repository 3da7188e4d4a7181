"""Prompt lookup beside plain decoding, in turn, in one run, on answers that repeat their prompt.

    python benchmarks/prompt_lookup.py ARTIFACT [--lookup 10] [--rounds 5] [--out FILE.json]

Random weights repeat nothing, and how much a real answer repeats is a matter of the text. So the answer is laid down:
the prompt once more, with a given share of its tokens replaced by new ones (0: a quotation, 0.1: an edit). A logits
processor does it in both loops, after noting what the model would have chosen by itself; those choices are compared
token by token. Everything else is the work of an answer that happened to be this one: each loop runs its own steps.

The time counts from the first token, so a prompt's prefill is left out. The order changes from round to round. Where
weights are rounded, a step of many tokens adds in another order and what is rounded again behind it may fall to the
other side: such choices are counted as ``other choices``, with the largest margin that one of them was made by.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor

from exaone_export import ExaoneForCausalLM


class LaidDown(LogitsProcessor):
    """Lets a given text be chosen, and notes the model's own choices.

    Args:
        text: ``[1, T]`` int64, prompt and answer.

    Attributes:
        own: What the model would have chosen.
        margins: By how many standard deviations of the logits the choice was ahead of the next one.
        started: When the first token was chosen.
    """

    def __init__(self, text: torch.Tensor) -> None:
        self.text, self.own, self.margins, self.started = text, [], [], 0.0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Raise the next token of the text above all others."""
        if not self.own:
            self.started = time.perf_counter()
        (first, second), (own, _) = (found.tolist() for found in scores[0].topk(2))
        self.own.append(own)
        self.margins.append((first - second) / float(scores.std()))
        scores[0, self.text[0, input_ids.shape[1]]] = torch.inf
        return scores


def decode(model: Any, text: torch.Tensor, prompt: int, lookup: int | None) -> tuple[float, float, LaidDown]:
    """Tokens a second, tokens a step and what the model said, of ``text`` behind its first ``prompt`` tokens."""
    steps, step, processor = 0, model.session.step, LaidDown(text)

    def counted(*inputs: Any) -> torch.Tensor:
        nonlocal steps
        steps += bool(processor.own)  # the first token comes with the prompt
        return step(*inputs)

    model.session.step = counted
    tokens = model.generate(
        text[:, :prompt],
        max_new_tokens=text.shape[1] - prompt,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        logits_processor=[processor],
        **({"prompt_lookup_num_tokens": lookup} if lookup else {}),
    )
    seconds = time.perf_counter() - processor.started
    del model.session.step
    assert torch.equal(tokens, text)
    behind = text.shape[1] - prompt - 1
    return behind / seconds, behind / steps, processor


def repeating(prompt: int, new: int, fresh: float, vocab: int, seed: int) -> torch.Tensor:
    """``[1, prompt + new]``: random tokens, and themselves again with a share of ``fresh`` ones."""
    generator = torch.Generator().manual_seed(seed)
    said = torch.randint(3, vocab, (1, prompt), generator=generator)
    again = said.repeat(1, -(-new // prompt))[:, :new]
    other = torch.randint(3, vocab, again.shape, generator=generator)
    return torch.cat((said, torch.where(torch.rand(again.shape, generator=generator) < fresh, other, again)), 1)


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {name: round(f(values), 3) for name, f in (("median", statistics.median), ("min", min), ("max", max))}


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--lookup", type=int, default=10, help="Tokens guessed in a step.")
    parser.add_argument("--prompt", type=int, default=64, help="Tokens of a prompt.")
    parser.add_argument("--new", type=int, default=96, help="Tokens of an answer.")
    parser.add_argument("--fresh", type=float, nargs="*", default=[0.0, 0.1, 0.3, 1.0], help="Shares that are new.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="Where the JSON is written too.")
    options = parser.parse_args()
    rounds: dict[float, list[dict[str, float]]] = {fresh: [] for fresh in options.fresh}
    with ExaoneForCausalLM.from_pretrained(options.artifact, threads=options.threads, verify=False) as model:
        vocab = model.config.vocab_size
        decode(model, repeating(16, 4, 0.0, vocab, 0), 16, 2)  # first touches
        for number in range(options.rounds):
            for fresh, found in rounds.items():
                text = repeating(options.prompt, options.new, fresh, vocab, number)
                order = [None, options.lookup] if number % 2 == 0 else [options.lookup, None]
                run = {kind: decode(model, text, options.prompt, kind) for kind in order}
                (plain, _, said), (guessed, tokens_a_step, said_so) = run[None], run[options.lookup]
                others = [margin for a, b, margin in zip(said.own, said_so.own, said.margins, strict=True) if a != b]
                found.append(
                    {
                        "plain tok/s": plain,
                        "lookup tok/s": guessed,
                        "ratio": guessed / plain,
                        "tokens a step": tokens_a_step,
                        "other choices": len(others),
                        "their margin": max(others, default=0.0),
                    }
                )
                shown = {name: round(value, 3) for name, value in found[-1].items()}
                print(f"round {number + 1}, fresh {fresh}: {shown}", file=sys.stderr, flush=True)
    result = {
        "artifact": options.artifact.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnxruntime")},
        **{name: getattr(options, name) for name in ("prompt", "new", "lookup", "rounds")},
        "fresh": {
            str(f): {key: spread([run[key] for run in found]) for key in found[0]} for f, found in rounds.items()
        },
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
