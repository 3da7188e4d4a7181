"""Fine-tune the tiny checkpoint to route chats. One thread, seeded, no input but the tiny checkpoint and its tasks.

Run `python examples/exaone4-tiny-router/training/train.py --out FOLDER`.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from routes import LABELS, TASKS, TINY, batch, label
from tasks import MAX_LEVEL, Example, stream

log = logging.getLogger("train")

WEIGHTS = {"recall": 0.6, "tool call": 0.25, "tool result": 0.04, "arithmetic": 0.04, "greeting": 0.03}
FIRST_LEVEL = 2  # recall is trained alone until it has reached this level
PASS_MARK = 0.9  # running accuracy that lifts recall to its next level
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
MICROBATCHES = 3  # a step's examples, sorted by length, are cut in this many


class Curriculum:
    """Running accuracy of each task, the levels, and the weights of the tasks that have begun."""

    def __init__(self) -> None:
        self.levels = {"recall": 0, "tool call": MAX_LEVEL}
        self.weights = {"recall": WEIGHTS["recall"]}
        self.accuracy = dict.fromkeys(TASKS, 0.0)

    def update(self, task: str, correct: bool) -> None:
        """Count one answer; lift recall where it passes the mark."""
        self.accuracy[task] += 0.01 * (correct - self.accuracy[task])
        if self.accuracy["recall"] > PASS_MARK and self.levels["recall"] < MAX_LEVEL:
            self.levels["recall"] += 1
            self.accuracy["recall"] = 0.7
        if self.levels["recall"] >= FIRST_LEVEL:
            self.weights.update(WEIGHTS)


def initialize(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The tiny checkpoint with a head: a label starts as the mean of its tokens' rows of the vocabulary projection.

    What the last position says is then already near the label that it should say: with a random head, looking up a
    home from there is not learned in hundreds of steps.
    """
    vocabulary = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).lm_head.weight
    model = AutoModelForSequenceClassification.from_pretrained(
        TINY,
        dtype=torch.float32,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        problem_type="single_label_classification",
    )
    with torch.no_grad():
        for row, name in zip(model.score.weight, LABELS, strict=True):
            row.copy_(vocabulary[tokenizer.encode(f" {name}")].mean(0))
    return model


def microbatches(examples: list[Example]) -> Iterator[list[Example]]:
    """The examples in parts of like length."""
    examples = sorted(examples, key=lambda example: len(f"{example.messages}{example.tools}"))
    size = math.ceil(len(examples) / MICROBATCHES)
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def step(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    sides: random.Random,
    curriculum: Curriculum,
) -> float:
    """Add up the gradients of one step; each part is padded on a random side."""
    summed = 0.0
    for some in microbatches(examples):
        labels = torch.tensor([model.config.label2id[label(example)] for example in some])
        inputs = batch(tokenizer, some, sides.choice(("left", "right")))
        output = model(**inputs, labels=labels, use_cache=False)
        loss = output.loss * (len(some) / len(examples))
        loss.backward()
        summed += loss.item()
        for example, correct in zip(some, (output.logits.argmax(-1) == labels).tolist(), strict=True):
            curriculum.update(example.task, correct)
    return summed


def learning_rate(done: int, steps: int, peak: float) -> float:
    """Warm up for 30 steps, hold, and fall in a line over the last two fifths."""
    return peak * min(1.0, (done + 1) / 30, (steps - done) / (0.4 * steps))


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--batch", type=int, default=32, help="examples per step")
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    sides = random.Random(options.seed)

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = initialize(tokenizer)
    curriculum = Curriculum()
    examples = stream(options.seed + 1, curriculum.weights, curriculum.levels, thinking=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.peak, betas=(0.9, 0.95), weight_decay=0.01)

    started = time.process_time()
    for done in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, options.steps, options.peak)
        optimizer.zero_grad()
        loss = step(model, tokenizer, list(islice(examples, options.batch)), sides, curriculum)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if done % 25 == 24:
            scores = ", ".join(f"{task} {score:.2f}" for task, score in curriculum.accuracy.items())
            passed, level = time.process_time() - started, curriculum.levels["recall"]
            log.info("%5d %5.0f s loss %.4f level %2d | %s", done + 1, passed, loss, level, scores)
    model.to(torch.bfloat16).save_pretrained(options.out)
    for name in TOKENIZER_FILES:
        shutil.copy(TINY / name, options.out)
    log.info("%d steps in %.0f s of processor time", options.steps, time.process_time() - started)


if __name__ == "__main__":
    main()
