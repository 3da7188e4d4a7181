"""Calibration data for the tiny checkpoint: training examples with their answers, one JSON object a line.

Run `python examples/exaone4-tiny/training/calibration.py > calibration.jsonl`. Nothing of the held-out split is in it.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

from transformers import AutoTokenizer

from encoding import prompt_text
from tasks import MAX_LEVEL, TASKS, Example, stream

FOLDER = Path(__file__).parents[1]


def slice_of(example: Example) -> str:
    """What the report of a calibration keeps apart."""
    if example.tools:
        return "tool call"
    return "thinking" if example.thinking else "plain"


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    weights, levels = dict.fromkeys(TASKS, 1.0), dict.fromkeys(TASKS, MAX_LEVEL)
    for example in islice(stream(options.seed, weights, levels), options.samples):
        text = prompt_text(tokenizer, example) + example.completion + tokenizer.eos_token
        print(json.dumps({"text": text, "slice": slice_of(example)}, ensure_ascii=False))


if __name__ == "__main__":
    main()
