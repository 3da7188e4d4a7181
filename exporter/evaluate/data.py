"""Held-out data: prompts and chats, one JSON object a line, some with the expected answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from exaone_export.errors import CalibrationError, PromptError
from exaone_export.runtime.parity.evaluation import Sample

from ..calibrate import data as calibration_data

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
    for number, line in calibration_data._lines(path):
        name = f"line {number} of {path}"
        parsed = calibration_data._parse(line, name)
        tokens, answer = calibration_data._encode(parsed, tokenizer, name), None
        if "answer" in parsed:
            answer = len(tokens)
            tokens = [*tokens, *_answer(parsed, tokenizer, name)]
            if len(tokens) > max_length:
                raise CalibrationError(
                    f"{name} has {len(tokens)} tokens with its answer, and at most {max_length} can be run; shorten "
                    f"it, or export the model with a larger --max-length."
                )
        tokens = tokens[: len(tokens) if answer is not None else min(seq_length, max_length)]
        if len(tokens) < 2:
            raise CalibrationError(f"{name} has one token, and a sample needs at least two; add text.")
        label = calibration_data._slice(parsed)
        found.append(Sample(label, torch.tensor(tokens, dtype=torch.int64), answer))
        if len(found) == samples:
            break
    if not found:
        raise CalibrationError(f'{path} has no line; write one JSON object a line, such as {{"text": "…"}}.')
    return found


def _answer(parsed: dict[str, Any], tokenizer: Any, name: str) -> list[int]:
    """Tokens of the answer, to the end of its turn."""
    answer = parsed["answer"]
    if not isinstance(answer, str) or not answer:
        raise CalibrationError(f"{name} has an 'answer' that is not a text; write the expected answer there.")
    if "messages" in parsed and parsed["messages"][-1]["role"] == "assistant":
        raise CalibrationError(f"{name} has an 'answer' after an assistant's message; remove one of them.")
    try:
        tokens: list[int] = tokenizer(answer, add_special_tokens=False, return_token_type_ids=False)["input_ids"]
    except PromptError as cause:  # half of a surrogate pair, which JSON can write
        raise CalibrationError(f"{name} has an 'answer' that cannot be encoded: {cause}") from cause
    return tokens if tokenizer.eos_token_id is None else [*tokens, tokenizer.eos_token_id]
