"""Held-out data: prompts and chats, one JSON object a line, some with the expected answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from exaone_export.errors import CalibrationError, PromptError
from exaone_export.runtime.parity.evaluation import Sample

from ..calibrate.data import Line, read_lines

__all__ = ["read_held_out"]


def read_held_out(
    path: Path, tokenizer: Any, *, seq_length: int, max_length: int, samples: int | None = None
) -> list[Sample]:
    """Read the lines of a JSONL file.

    A line is as calibration reads it (`exaone_export.exporter.calibrate.data.read_samples`), its slice included, and
    may have an ``"answer"``: the expected continuation, which then ends the model's turn.

    Args:
        path: The file.
        tokenizer: The checkpoint's.
        seq_length: Length in tokens that a line without an answer is cut to.
        max_length: The most tokens, prompt and answer together, that are run.
        samples: The most lines that are read; None for all.

    Raises:
        CalibrationError: The file cannot be read or is empty, or a line is invalid; the message names the line.
    """
    found: list[Sample] = []
    for line in read_lines(path, tokenizer):
        tokens, answer = line.tokens, None
        if "answer" in line.fields:
            answer = len(tokens)
            tokens = [*tokens, *_answer(line, tokenizer)]
            if len(tokens) > max_length:
                raise CalibrationError(
                    f"{line.name} has {len(tokens)} tokens with its answer, and at most {max_length} can be run; "
                    f"shorten it, or export the model with a larger --max-length."
                )
        else:
            tokens = tokens[: min(seq_length, max_length)]
        if len(tokens) < 2:
            raise CalibrationError(f"{line.name} has one token, and a sample needs at least two; add text.")
        found.append(Sample(line.slice, torch.tensor(tokens, dtype=torch.int64), answer))
        if len(found) == samples:
            break
    return found


def _answer(line: Line, tokenizer: Any) -> list[int]:
    """Tokens of the answer, to the end of its turn."""
    answer, name = line.fields["answer"], line.name
    if not isinstance(answer, str) or not answer:
        raise CalibrationError(
            f"{name} has an 'answer' that is empty or not a string; write the expected answer there."
        )
    if "messages" in line.fields and line.fields["messages"][-1]["role"] == "assistant":
        raise CalibrationError(f"{name} has an 'answer' after an assistant's message; remove one of them.")
    try:
        tokens: list[int] = tokenizer(answer, add_special_tokens=False, return_token_type_ids=False)["input_ids"]
    except PromptError as cause:  # half of a surrogate pair, which JSON can write
        raise CalibrationError(f"{name} has an 'answer' that cannot be encoded: {cause}") from cause
    return tokens if tokenizer.eos_token_id is None else [*tokens, tokenizer.eos_token_id]
