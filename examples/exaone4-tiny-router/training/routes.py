"""What the router is asked: chats of the tiny checkpoint's tasks, and the label of each."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "exaone4-tiny" / "training"))

from transformers import BatchEncoding, PreTrainedTokenizerBase

from encoding import prompt_text
from tasks import MAX_LEVEL, Example, draw
from words import CITIES, TOOLS

TINY = Path(__file__).parents[2] / "exaone4-tiny"
LABELS = (*TOOLS, "no_tool", "tool_result", "arithmetic", "greeting", *CITIES)
FAR_RECALL = "far recall"  # recall with six times the filler of training
TASKS = ("recall", "tool call", "tool result", "arithmetic", "greeting")
SEED = 12345


def label(example: Example) -> str:
    """The home city of the person in question, the requested tool (or that there is none), or else the task."""
    if example.task == "recall":
        assert example.evidence is not None
        return example.evidence.split()[-1]
    if example.task == "tool call":
        return json.loads(example.identity)["name"] if "<tool_call>" in example.reply else "no_tool"
    return example.task.replace(" ", "_")


def held_out(group: str, examples: int, seed: int = SEED) -> list[Example]:
    """Examples of a task at the highest level of training, or of far recall, that training cannot draw."""
    rng = random.Random(f"{seed} {group}")
    task, level = ("recall", 6 * MAX_LEVEL) if group == FAR_RECALL else (group, MAX_LEVEL)
    return [draw(rng, task, level=level, thinking=False, held_out=True) for _ in range(examples)]


def batch(tokenizer: PreTrainedTokenizerBase, examples: list[Example], padding_side: str) -> BatchEncoding:
    """Token ids and attention mask of the prompts, padded to the longest."""
    texts = [prompt_text(tokenizer, example) for example in examples]
    return tokenizer(texts, padding=True, padding_side=padding_side, return_tensors="pt", return_token_type_ids=False)
