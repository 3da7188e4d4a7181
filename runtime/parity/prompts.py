"""Text prompts of a parity check: each side's own tokenizer encodes them, and the tokens must be the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from exaone_export.errors import CheckpointError
from exaone_export.model.spec import ModelSpec
from exaone_export.terminal_text import brief

from ..mirror.config import transformers_config
from ..mirror.text.tokenizer import load_tokenizer
from ..text.tokenizer_files import tokenizer_errors

__all__ = ["TextPrompt", "encode_on_both_sides"]


@dataclass(frozen=True)
class TextPrompt:
    """One prompt, encoded twice.

    Attributes:
        text: As given.
        tokens: Ids by the artifact's tokenizer, with which all sides are run.
        baseline_tokens: Ids by transformers' ``AutoTokenizer`` of the checkpoint.
        baseline_class: Of that tokenizer.
    """

    text: str
    tokens: list[int]
    baseline_tokens: list[int]
    baseline_class: str

    @property
    def passed(self) -> bool:
        """Whether both are the same."""
        return self.tokens == self.baseline_tokens

    @property
    def input_ids(self) -> torch.Tensor:
        """``[S]`` int64, of the artifact's tokenizer."""
        return torch.tensor(self.tokens, dtype=torch.int64)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": self.passed, **asdict(self)}

    def describe(self) -> str:
        """A line for people."""
        name = f"prompt {self.text!r:.40}, {len(self.tokens)} tokens"
        if self.passed:
            return f"{name}: same tokens from both tokenizers"
        pairs = zip(self.tokens, self.baseline_tokens, strict=False)
        shortest = min(len(self.tokens), len(self.baseline_tokens))
        at = next((at for at, (one, other) in enumerate(pairs) if one != other), shortest)
        return (
            f"{name}: FAILED, token {at} differs from that of {self.baseline_class}, which transformers uses for the "
            f"checkpoint; the artifact uses tokenizer.json as it is"
        )


def encode_on_both_sides(artifact: Path, checkpoint: Path, spec: ModelSpec, texts: Sequence[str]) -> list[TextPrompt]:
    """Encode texts with the artifact's tokenizer, and with the one that transformers uses for the checkpoint.

    Args:
        artifact: A folder.
        checkpoint: A folder, whose files have been checked.
        spec: The checkpoint's architecture.
        texts: The prompts.

    Raises:
        ArtifactError: The artifact or the checkpoint has no tokenizer.json that can be read, or it fails on a text.
        CheckpointError: transformers cannot read the checkpoint's.
        PromptError: A text is not Unicode.
    """
    ours = load_tokenizer(artifact)
    encoded = [ours(text, return_token_type_ids=False)["input_ids"] for text in texts]
    load_tokenizer(checkpoint)  # Without a tokenizer.json, or with one that has no bounds, transformers is not called.
    broken = f"transformers cannot use the tokenizer of {checkpoint}"
    try:
        # With a config of our own, because transformers refuses some spellings of config.json.
        config = transformers_config(spec)
        with tokenizer_errors(CheckpointError, broken):
            theirs = AutoTokenizer.from_pretrained(
                checkpoint, config=config, local_files_only=True, trust_remote_code=False
            )
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"transformers cannot read the tokenizer of {checkpoint} ({brief(str(error))}); correct its "
            f"tokenizer_config.json, or leave --prompt out."
        ) from error
    with tokenizer_errors(CheckpointError, broken):
        found = [theirs(text, return_token_type_ids=False)["input_ids"] for text in texts]
    return [
        TextPrompt(text, tokens, baseline, type(theirs).__name__)
        for text, tokens, baseline in zip(texts, encoded, found, strict=True)
    ]
