"""Accuracy of the router on held-out chats, per task and padding side.

Run `python examples/exaone4-tiny-router/training/evaluate.py --examples 200 --json accuracy.json`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from head_faults import FAULTS
from routes import FAR_RECALL, TASKS, batch, held_out, label
from tasks import Example

FOLDER = Path(__file__).parents[1]
SIDES = ("left", "right")

Accuracies = dict[str, dict[str, float]]


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    padding_side: str,
    batch_size: int = 50,
) -> list[bool]:
    """Whether each example gets its label. Examples share a batch with their neighbours in the list."""
    hits: list[bool] = []
    for start in range(0, len(examples), batch_size):
        some = examples[start : start + batch_size]
        logits = model(**batch(tokenizer, some, padding_side), use_cache=False).logits
        expected = torch.tensor([model.config.label2id[label(example)] for example in some])
        hits += (logits.argmax(-1) == expected).tolist()
    return hits


def evaluate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: int) -> Accuracies:
    """Accuracy at each padding side and number of examples, by task; the tasks share batches, which so are ragged."""
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: {side: [] for side in SIDES})
    for tasks in (TASKS, (FAR_RECALL,)):
        drawn = [(task, example) for task in tasks for example in held_out(task, examples)]
        mixed = [pair for first in range(examples) for pair in drawn[first::examples]]
        for side in SIDES:
            hits = score(model, tokenizer, [example for _, example in mixed], side)
            for (task, example), hit in zip(mixed, hits, strict=True):
                groups["no tool" if label(example) == "no_tool" else task][side].append(hit)
    return {
        group: {side: sum(hits) / len(hits) for side, hits in sides.items()} | {"examples": len(sides["left"])}
        for group, sides in groups.items()
    }


def table(accuracies: Accuracies) -> str:
    """The accuracies as a Markdown table."""
    rows = [
        f"| {group} | {row['left']:.1%} | {row['right']:.1%} | {row['examples']} |" for group, row in accuracies.items()
    ]
    head = ["| task | padded on the left | padded on the right | examples |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def main() -> None:
    """Print the table; write the JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--examples", type=int, default=200, help="examples per task")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the computation")
    parser.add_argument("--fault", choices=list(FAULTS), help="break the model in this way first")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    dtype = getattr(torch, options.dtype)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, dtype=dtype).eval()
    if options.fault:
        FAULTS[options.fault](model)
    accuracies = evaluate(model, tokenizer, options.examples)
    print(table(accuracies))
    if options.json:
        options.json.write_text(json.dumps(accuracies, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
