"""Greedy accuracy of the tiny checkpoint on held-out examples, per task.

Run `python examples/exaone4-tiny/training/evaluate.py --examples 200 --json accuracy.json`.

An answer counts when the whole reply, think block and end of turn included, is the expected one.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from encoding import distance, encode, prompt_text
from faults import FAULTS
from tasks import MAX_LEVEL, TASKS, Example, draw

FOLDER = Path(__file__).parents[1]
SEED = 12345
FAR = 3  # windows
FAR_RECALL = "far recall"  # recall with six times the filler of training
FAR_LEVEL = 6 * MAX_LEVEL
GROUPS = (*TASKS, FAR_RECALL)

Accuracies = dict[str, dict[str, float]]


def held_out(task: str, examples: int, seed: int = SEED) -> list[Example]:
    """Examples at the highest level of training (far recall: beyond it), every second one in reasoning mode."""
    rng = random.Random(f"{seed} {task}")
    level = MAX_LEVEL
    if task == FAR_RECALL:
        task, level = "recall", FAR_LEVEL
    return [draw(rng, task, level=level, thinking=bool(i % 2), held_out=True) for i in range(examples)]


@torch.inference_mode()
def answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example]) -> list[str]:
    """Greedy replies of one left-padded batch, from the end of the prompt to the end of the turn."""
    prompts = [prompt_text(tokenizer, example) for example in examples]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
    longest = max(len(encode(tokenizer, example).completion) for example in examples)
    output = model.generate(**batch, max_new_tokens=longest, do_sample=False)
    replies = output[:, batch["input_ids"].shape[1] :]
    return [text.replace("[PAD]", "") for text in tokenizer.batch_decode(replies)]


def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example], batch_size: int = 50
) -> list[bool]:
    """Whether each example is answered as expected."""
    hits = [False] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(prompt_text(tokenizer, examples[i])))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        replies = answers(model, tokenizer, [examples[i] for i in chosen])
        for i, reply in zip(chosen, replies, strict=True):
            hits[i] = reply == examples[i].completion + tokenizer.eos_token
    return hits


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: int, tasks: tuple[str, ...] = GROUPS
) -> Accuracies:
    """Accuracy and number of examples by group: task and mode, and for recall also the distance in windows."""
    groups: dict[str, list[bool]] = defaultdict(list)
    window = model.config.sliding_window
    for task in tasks:
        drawn = held_out(task, examples)
        for example, hit in zip(drawn, score(model, tokenizer, drawn), strict=True):
            groups[f"{task}, {'thinking' if example.thinking else 'plain'}"].append(hit)
            if task == "recall":
                windows = distance(tokenizer, example) // window
                groups[f"recall at {windows} to {windows + 1} windows"].append(hit)
                if windows >= FAR:
                    groups[f"recall at {FAR} windows and more"].append(hit)
    return {group: {"accuracy": sum(hits) / len(hits), "examples": len(hits)} for group, hits in sorted(groups.items())}


def table(accuracies: Accuracies) -> str:
    """The accuracies as a Markdown table."""
    rows = [f"| {group} | {row['accuracy']:.1%} | {row['examples']} |" for group, row in accuracies.items()]
    return "\n".join(["| task | exact replies | examples |", "| --- | --- | --- |", *rows])


def main() -> None:
    """Print the table; write the JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--examples", type=int, default=200, help="examples per task")
    parser.add_argument("--fault", choices=list(FAULTS), help="break the model in this way first")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    breaking: Callable[[PreTrainedModel], None] | None = FAULTS.get(options.fault)
    if breaking:
        breaking(model)
    accuracies = evaluate(model, tokenizer, options.examples)
    print(table(accuracies))
    if options.json:
        options.json.write_text(json.dumps(accuracies, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
