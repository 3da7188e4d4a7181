"""Lines as tokens: all are encoded before any is run, so that one that cannot be used does not stop a run midway."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from exaone_export.artifact.reader import Artifact
from exaone_export.errors import PromptError
from exaone_export.model.heads import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION

from ..text.chat_lines import encode_messages
from ..text.tokenizer import check_vocabulary
from .lines import Line

__all__ = ["MAX_TOKENS", "Encoded", "encode_lines"]

MAX_TOKENS = 1 << 28
"""Of all lines together, which are kept in memory: 1 GiB, or three times that where their places are needed too."""


@dataclass(frozen=True)
class Encoded:
    """One line.

    Attributes:
        line: Its name, for messages.
        id: Given back with the result.
        tokens: ``[S]`` int32.
        text: That the offsets are of: a question's context, or what is tagged; "" for the other heads.
        offsets: ``[S, 2]`` int32, where each token begins and ends in ``text``; None for the other heads.
        inside: ``[S]`` bool, the tokens that are of ``text``; None for the other heads.
    """

    line: str
    id: Any
    tokens: np.ndarray
    text: str = ""
    offsets: np.ndarray | None = None
    inside: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def encode_lines(lines: Iterable[Line], tokenizer: Any, artifact: Artifact) -> list[Encoded]:
    """Encode all lines.

    Args:
        lines: Of `exaone_export.runtime.predict.lines`.
        tokenizer: The artifact's.
        artifact: What they are for.

    Raises:
        ArtifactError: The tokenizer does not work, or has no template for a chat.
        PromptError: A line cannot be encoded, is longer than the artifact holds, or has a token that is not the
            model's; the message names the line.
    """
    found, total = [], 0
    for line in lines:
        encoded = _encode(line, tokenizer, artifact.spec.head.kind)
        _check(encoded, tokenizer, artifact)
        found.append(encoded)
        total += len(encoded)
        if total > MAX_TOKENS:
            raise PromptError(f"the lines up to {line.name} have more than {MAX_TOKENS} tokens; pass fewer at a time.")
    return found


def _encode(line: Line, tokenizer: Any, kind: str) -> Encoded:
    if "messages" in line.fields:
        options = {name: value for name, value in line.fields.items() if name != "messages"}
        tokens = encode_messages(tokenizer, line.fields["messages"], name=line.name, error=PromptError, **options)
        return Encoded(line.name, line.id, np.array(tokens, np.int32))
    located = kind in (QUESTION_ANSWERING, TOKEN_CLASSIFICATION)
    texts = tuple(line.fields.values())
    if kind == QUESTION_ANSWERING:
        texts = (line.fields["question"], line.fields["context"])
    elif "text_pair" in line.fields:
        texts = (line.fields["text"], line.fields["text_pair"])
    try:
        encoding = tokenizer(
            *texts,
            return_token_type_ids=False,
            return_offsets_mapping=located,
            return_special_tokens_mask=located,
            verbose=False,  # about a length that is checked here
        )
    except PromptError as cause:
        raise PromptError(f"{line.name} cannot be encoded: {cause}") from cause
    tokens_S = np.array(encoding["input_ids"], np.int32)
    if not located:
        return Encoded(line.name, line.id, tokens_S)
    if kind == QUESTION_ANSWERING:
        inside = np.array([sequence == 1 for sequence in encoding.sequence_ids(0)], bool)
        if not inside.any():
            raise PromptError(f"{line.name} has a 'context' without a token; write a text there.")
    else:
        inside = np.array(encoding["special_tokens_mask"], bool) == 0
    offsets = np.array(encoding["offset_mapping"], np.int32).reshape(-1, 2)
    return Encoded(line.name, line.id, tokens_S, texts[-1], offsets, inside)


def _check(encoded: Encoded, tokenizer: Any, artifact: Artifact) -> None:
    most, spec = artifact.manifest.cache["max_length"], artifact.spec
    if not len(encoded):
        raise PromptError(f"{encoded.line} has no tokens; write a text there.")
    if spec.head.kind == SEQUENCE_CLASSIFICATION and (encoded.tokens == spec.pad_token_id).all():
        raise PromptError(
            f"{encoded.line} has only padding tokens, and the last of the others is classified; write a text there."
        )
    if len(encoded) > most:
        longer = ", or export the model with a larger --max-length" if most < spec.max_position_embeddings else ""
        raise PromptError(
            f"{encoded.line} has {len(encoded)} tokens, and the artifact holds {most}; shorten it{longer}."
        )
    try:
        check_vocabulary(tokenizer, torch.from_numpy(encoded.tokens), spec.vocab_size)
    except PromptError as cause:
        raise PromptError(f"{encoded.line}: {cause}") from cause
