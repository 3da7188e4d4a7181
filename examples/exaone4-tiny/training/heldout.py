"""Held-out lines for the tiny checkpoint: chats with the expected answer, one JSON object a line.

Run `python examples/exaone4-tiny/training/heldout.py > heldout.jsonl` and give the file to `exaone-export eval`. They
are the examples that `evaluate.py` asks, at the highest level of training and beyond it; a slice is a task in one mode.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from evaluate import GROUPS, held_out
from tasks import Example


def line(group: str, example: Example) -> dict[str, Any]:
    """One example as `exaone-export eval` reads it."""
    tools = {"tools": list(example.tools)} if example.tools else {}
    return {
        "slice": f"{group}, {'thinking' if example.thinking else 'plain'}",
        "messages": list(example.messages),
        **tools,
        "enable_thinking": example.thinking,
        "answer": example.completion,
    }


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50, help="examples per task")
    options = parser.parse_args()
    for group in GROUPS:
        for example in held_out(group, options.examples):
            print(json.dumps(line(group, example), ensure_ascii=False))


if __name__ == "__main__":
    main()
