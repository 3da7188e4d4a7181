"""What a constraint costs: compiling it once, and forbidding and taking at every token, over 102,400 tokens.

    python benchmarks/constraint_cost.py

The tokenizer is the tiny checkpoint's with made-up words added; the logits are random.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from exaone_export.runtime.constraints.constraint import Compiler
from exaone_export.runtime.constraints.requested import AnswerForm, constraint_of
from exaone_export.runtime.constraints.tool_calls import CalledTool
from exaone_export.runtime.text.reasoning import opened_by
from exaone_export.runtime.text.tokenizer import Tokenizer

VOCAB_SIZE, TOKENS, STOP = 102_400, 300, 8
TINY = Path(__file__).parents[1] / "examples" / "exaone4-tiny"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mail": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "mail", "tags"],
    "additionalProperties": False,
}
CASES: dict[str, dict[str, Any]] = {
    "any JSON object": {"form": AnswerForm("json_object")},
    "JSON schema, 4 properties": {"form": AnswerForm("json_schema", PERSON)},
    "the same behind reasoning": {"form": AnswerForm("json_schema", PERSON), "reasoning": opened_by("<think>")},
    "enum of 1,000": {"form": AnswerForm("json_schema", {"enum": [f"value {index}" for index in range(1000)]})},
    "regular expression": {"form": AnswerForm("regex", r"[A-Z][a-z]+( [A-Z][a-z]+){1,400}")},
    "16 strict tools in text": {"tools": [CalledTool(f"tool_{index}", PERSON, strict=True) for index in range(16)]},
}


def large_tokenizer(folder: Path) -> Tokenizer:
    """The tiny tokenizer with made-up words up to `VOCAB_SIZE`."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "training"))
    path, rng = folder / "tokenizer.json", np.random.default_rng(0)
    description = json.loads(path.read_text())
    vocabulary = description["model"]["vocab"]
    while len(vocabulary) < VOCAB_SIZE:
        letters = "".join(chr(97 + letter) for letter in rng.integers(0, 26, rng.integers(2, 10)))
        vocabulary.setdefault(("Ġ" if rng.random() < 0.5 else "") + letters, len(vocabulary))
    path.write_text(json.dumps(description))
    return Tokenizer.open(folder)


def main() -> None:
    """Print a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        compiler = Compiler(large_tokenizer(Path(folder) / "model"), VOCAB_SIZE, {STOP})
        begun = time.perf_counter()
        compiler.load()
        print(f"vocabulary: {time.perf_counter() - begun:.2f} s, once an artifact\n")
        print("| constraint | compile, ms | forbid, us (median, largest) | take, us (median) |")
        print("| --- | ---: | ---: | ---: |")
        for name, options in CASES.items():
            print(f"| {name} | {row(compiler, options)} |")


def row(compiler: Compiler, options: dict[str, Any]) -> str:
    """The numbers of one constraint."""
    begun = time.perf_counter()
    made = constraint_of(compiler, **options)
    assert made is not None
    compiled = time.perf_counter() - begun
    constraint, rng, forbids, takes = made(), np.random.default_rng(0), list[float](), list[float]()
    for _ in range(TOKENS):
        scores = rng.standard_normal(VOCAB_SIZE, dtype=np.float32)
        begun = time.perf_counter()
        constraint.forbid(scores)
        between = time.perf_counter()
        token = int(scores.argmax())
        chosen = time.perf_counter()
        ended = token == STOP or constraint.take(token)
        forbids.append(1e6 * (between - begun))
        takes.append(1e6 * (time.perf_counter() - chosen))
        if ended:
            constraint = made()
    return f"{1e3 * compiled:.1f} | {np.median(forbids):.0f}, {max(forbids):.0f} | {np.median(takes):.0f}"


if __name__ == "__main__":
    main()
