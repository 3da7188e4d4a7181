"""Make the tiny checkpoint: tokenizer, weights, configuration. One thread, seeded, no input but this folder.

Run `python examples/exaone4-tiny/training/train.py --out FOLDER`.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch.nn import functional
from transformers import Exaone4ForCausalLM, PreTrainedTokenizerFast

import tokenizer as tiny_tokenizer
from architecture import configuration, initialize
from encoding import Encoded, encode
from tasks import MAX_LEVEL, stream

log = logging.getLogger("train")

WEIGHTS = {
    "recall": 0.20,
    "recall list": 0.20,
    "arithmetic": 0.25,
    "tool call": 0.30,
    "tool result": 0.05,
    "greeting": 0.04,
}
FIRST = ("recall", "recall list")  # trained alone until both have reached FIRST_LEVEL: looking things up comes first
FIRST_LEVEL = 2
GROWING = (*FIRST, "tool call")
PASS_MARK = 0.9  # running accuracy that lifts a task to its next level
MASTERED = 0.95  # running accuracy at the highest level from which on a task comes a quarter as often
MICROBATCHES = 3  # a step's examples, sorted by length, are cut in this many


class Curriculum:
    """Running accuracy of each task, the level of those that grow, and the weights of those that have begun."""

    def __init__(self) -> None:
        self.levels = dict.fromkeys(GROWING, 0)
        self.weights = {task: WEIGHTS[task] for task in FIRST}
        self.accuracy = dict.fromkeys(WEIGHTS, 0.0)

    def update(self, task: str, correct: bool) -> None:
        """Count one answer; lift the task where it passes the mark."""
        self.accuracy[task] += 0.01 * (correct - self.accuracy[task])
        if self.accuracy[task] > PASS_MARK and self.levels.get(task, MAX_LEVEL) < MAX_LEVEL:
            self.levels[task] += 1
            self.accuracy[task] = 0.6
        for begun in WEIGHTS if all(self.levels[first] >= FIRST_LEVEL for first in FIRST) else FIRST:
            self.weights[begun] = WEIGHTS[begun] * (0.25 if self._mastered(begun) else 1.0)

    def _mastered(self, task: str) -> bool:
        return self.levels.get(task, MAX_LEVEL) == MAX_LEVEL and self.accuracy[task] > MASTERED


def microbatches(examples: list[Encoded], pad: int) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
    """Tasks, token ids and labels, right-padded, of examples of like length; labels are -100 outside of the answers."""
    examples = sorted(examples, key=len)
    size = math.ceil(len(examples) / MICROBATCHES)
    for start in range(0, len(examples), size):
        batch = examples[start : start + size]
        ids = torch.full((len(batch), max(map(len, batch))), pad)
        labels = torch.full_like(ids, -100)
        for row, example in enumerate(batch):
            ids[row, : len(example)] = torch.tensor(example.prompt + example.completion)
            labels[row, len(example.prompt) : len(example)] = torch.tensor(example.completion)
        yield [example.task for example in batch], ids[:, :-1], labels[:, 1:]


def step(model: Exaone4ForCausalLM, examples: list[Encoded], pad: int, curriculum: Curriculum) -> float:
    """Add up the gradients of one step. Logits are computed for the answers only; padding stands after them."""
    total = sum(len(example.completion) for example in examples)
    summed = 0.0
    for tasks, ids, labels in microbatches(examples, pad):
        hidden = model.model(ids, use_cache=False).last_hidden_state
        asked = labels != -100
        logits = model.lm_head(hidden[asked])
        loss = functional.cross_entropy(logits, labels[asked], reduction="sum") / total
        loss.backward()
        summed += loss.item()
        wrong = torch.zeros_like(labels, dtype=torch.bool)
        wrong[asked] = logits.argmax(-1) != labels[asked]
        for task, miss in zip(tasks, wrong.any(-1).tolist(), strict=True):
            curriculum.update(task, not miss)
    return summed


def learning_rate(done: int, steps: int, peak: float) -> float:
    """Warm up for 50 steps, hold, and fall to a fiftieth over the last two fifths (a cosine)."""
    fall = max(0.0, (done - 0.6 * steps) / (0.4 * steps))
    return peak * min(1.0, (done + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))


def save(model: Exaone4ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the folder in Hugging Face form."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=32, help="examples per step")
    parser.add_argument("--peak", type=float, default=1.5e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    tokenizer = tiny_tokenizer.build()
    model = initialize(configuration(tokenizer))
    log.info("%d parameters, %d tokens", sum(weight.numel() for weight in model.parameters()), len(tokenizer))
    save(model, tokenizer, options.out)
    for layer in model.model.layers:
        layer.compile(dynamic=True)  # in place: the weights' names stay
    curriculum = Curriculum()
    examples = (
        encode(tokenizer, example) for example in stream(options.seed + 1, curriculum.weights, curriculum.levels)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.peak, betas=(0.9, 0.95), weight_decay=0.01)

    started, loss = time.monotonic(), math.nan
    for done in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, options.steps, options.peak)
        optimizer.zero_grad()
        loss = step(model, list(islice(examples, options.batch)), tokenizer.pad_token_id, curriculum)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if done % 25 == 24:
            levels = list(curriculum.levels.values())
            scores = ", ".join(f"{task} {score:.2f}" for task, score in curriculum.accuracy.items())
            passed = time.monotonic() - started
            log.info("%5d %5.0f s loss %.4f levels %s | %s", done + 1, passed, loss, levels, scores)
        if done % 200 == 199:
            save(model, tokenizer, options.out)
    save(model, tokenizer, options.out)
    log.info("%d steps in %.0f s", options.steps, time.monotonic() - started)


if __name__ == "__main__":
    main()
