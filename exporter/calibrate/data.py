"""Calibration data: prompts and chats, one JSON object a line, as tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from exaone_export.errors import CalibrationError, PromptError
from exaone_export.files import digest, strict_json
from exaone_export.runtime.text.chat_lines import check_messages, encode_messages

__all__ = [
    "MAX_DATA_BYTES",
    "MAX_LINE_BYTES",
    "Line",
    "Sample",
    "check_vocabulary",
    "hash_of",
    "read_lines",
    "read_prompts",
    "read_samples",
]

MAX_LINE_BYTES = 16 << 20
MAX_DATA_BYTES = 16 << 30
"""Of the whole file, because its hash is taken; a few thousand lines are enough for either use."""

_MAX_LABEL = 40


@dataclass(frozen=True)
class Sample:
    """One line of the data.

    Attributes:
        tokens: ``[1, S]`` int64.
        slice: What the line is an example of: its key ``"slice"``; else ``"tool call"`` where it has tools,
            ``"thinking"`` where the model may think, ``"plain"`` otherwise. Then, after a comma, its key
            ``"language"``, if it has one.
    """

    tokens: torch.Tensor
    slice: str = "plain"


@dataclass(frozen=True)
class Line:
    """One line of a data file, as it is written.

    Attributes:
        name: What messages call it.
        fields: What it says, checked as far as calibration reads it.
        tokens: Its token ids, uncut.
        slice: As `Sample`'s.
    """

    name: str
    fields: dict[str, Any]
    tokens: list[int]
    slice: str


def read_prompts(
    path: Path, tokenizer: Any, *, samples: int, seq_length: int, max_tokens: int | None = None
) -> list[torch.Tensor]:
    """The tokens of `read_samples`."""
    found = read_samples(path, tokenizer, samples=samples, seq_length=seq_length, max_tokens=max_tokens)
    return [sample.tokens for sample in found]


def read_samples(
    path: Path, tokenizer: Any, *, samples: int, seq_length: int, max_tokens: int | None = None
) -> list[Sample]:
    """Read the first lines of a JSONL file.

    A line is ``{"text": …}``, tokenized as it is, or ``{"messages": […]}`` with, if wanted, ``"tools"`` and
    ``"enable_thinking"``, written by the checkpoint's chat template; the answer that a chat ends with belongs to it.
    ``"slice"`` and ``"language"`` say what it is an example of. Other keys, such as a source or an id, are left alone.

    Args:
        path: The file.
        tokenizer: The checkpoint's.
        samples: The most lines that are read.
        seq_length: Where each is cut, in tokens.
        max_tokens: Where all of them together are cut; None for nowhere.

    Returns:
        One sample a line, in the order of the file.

    Raises:
        CalibrationError: The file cannot be read, has no line, or one that is neither; the message names the line. Or a
            limit is below 1.
    """
    for name, limit in {"samples": samples, "seq_length": seq_length, "max_tokens": max_tokens}.items():
        if limit is not None and limit < 1:
            raise CalibrationError(f"{name} is {limit}, and it must be 1 or more.")
    found: list[Sample] = []
    left = max_tokens
    for line in read_lines(path, tokenizer):
        tokens = line.tokens[: seq_length if left is None else min(seq_length, left)]
        found.append(Sample(torch.tensor([tokens], dtype=torch.int64), line.slice))
        left = None if left is None else left - len(tokens)
        if len(found) == samples or left == 0:
            break
    return found


def read_lines(path: Path, tokenizer: Any) -> Iterator[Line]:
    """Read the lines of a JSONL file that are not empty, one after the other; see `read_samples`.

    Raises:
        CalibrationError: The file cannot be read, has no line, or one that is invalid; the message names the line.
    """
    number = 0
    with _open(path) as file:
        for number, text in strict_json.numbered_lines(
            file, name=str(path), max_bytes=MAX_LINE_BYTES, error=CalibrationError
        ):
            name = f"line {number} of {path}"
            fields = _parse(text, name)
            yield Line(name, fields, _encode(fields, tokenizer, name), _slice(fields))
    if not number:
        raise CalibrationError(f'{path} has no line; write one JSON object a line, such as {{"text": "…"}}.')


def check_vocabulary(tokens: Iterable[torch.Tensor], vocab_size: int) -> None:
    """Refuse a token that the model has no embedding for.

    Args:
        tokens: Ids of every sample, int64 of any shape.
        vocab_size: The model's.

    Raises:
        CalibrationError: There is one.
    """
    if (largest := max(int(each.max()) for each in tokens)) >= vocab_size:
        raise CalibrationError(
            f"the tokenizer gives token {largest}, and the model knows {vocab_size}; give the folder the model's own "
            f"tokenizer, or leave out texts with tokens that were added to the tokenizer alone."
        )


def hash_of(path: Path) -> str:
    """Sha256 of the whole file.

    Raises:
        CalibrationError: It is not a file, is too large, or cannot be read.
    """
    with _open(path) as file:
        return digest.hash_of(file)


@contextmanager
def _open(path: Path) -> Iterator[BufferedReader]:
    if not path.is_file():
        raise CalibrationError(f"{path} is not a file; give a JSONL file of prompts or chats.")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_DATA_BYTES:
                raise CalibrationError(
                    f"{path} has {size} bytes, and at most {MAX_DATA_BYTES} are read; give a file of fewer lines."
                )
            yield file
    except OSError as cause:
        raise CalibrationError(f"{path} cannot be read ({cause.strerror}); check its permissions.") from cause


def _parse(line: bytes, name: str) -> dict[str, Any]:
    sample = strict_json.parse_object(line, name=name, error=CalibrationError)
    if ("text" in sample) == ("messages" in sample):
        raise CalibrationError(
            f"{name} has {'both' if 'text' in sample else 'neither'} of the keys 'text' and 'messages'; give it one."
        )
    if "text" in sample and not isinstance(sample["text"], str):
        raise CalibrationError(f"{name} has a 'text' that is not a string; write the prompt there.")
    if "messages" in sample:
        check_messages(sample["messages"], name=name, error=CalibrationError)
    if not isinstance(sample.get("enable_thinking", False), bool):
        raise CalibrationError(f"{name} has an 'enable_thinking' that is neither true nor false; correct it.")
    for key in ("slice", "language"):
        if not _is_label(sample.get(key, "none")):
            raise CalibrationError(
                f"{name} has a {key!r} that is not a text of 1 to {_MAX_LABEL} printable characters; correct it."
            )
    return sample


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_LABEL and value.isprintable()


def _slice(sample: dict[str, Any]) -> str:
    if "slice" in sample:
        label: str = sample["slice"]
    elif sample.get("tools"):
        label = "tool call"
    else:
        label = "thinking" if sample.get("enable_thinking", False) else "plain"
    return f"{label}, {sample['language']}" if "language" in sample else label


def _encode(sample: dict[str, Any], tokenizer: Any, name: str) -> list[int]:
    if "text" in sample:
        try:
            tokens: list[int] = tokenizer(sample["text"], return_token_type_ids=False)["input_ids"]
        except PromptError as cause:  # half of a surrogate pair, which JSON can write
            raise CalibrationError(f"{name} has a 'text' that cannot be encoded: {cause}") from cause
    else:
        tokens = encode_messages(
            tokenizer,
            sample["messages"],
            name=name,
            error=CalibrationError,
            enable_thinking=sample.get("enable_thinking", False),
            tools=sample.get("tools"),
        )
    if not tokens:
        raise CalibrationError(f"{name} has no tokens; remove it, or write a prompt there.")
    return tokens
