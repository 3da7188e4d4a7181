"""Deliberate mistakes in the head and in the handling of padding, beside those in the architecture (`faults.py`).

Each function breaks a loaded model in place, the way that an exporter or a runtime could get it wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "exaone4-tiny" / "training"))

import torch
from transformers import PreTrainedModel

from faults import FAULTS as BODY_FAULTS


def last_column(model: PreTrainedModel) -> None:
    """The label of the last column, padding or not."""
    model.config.pad_token_id = -1  # no token of any batch


def one_token_early(model: PreTrainedModel) -> None:
    """The label of the token before the last one that is not padding."""
    model.score.register_forward_hook(lambda module, inputs, logits: logits.roll(1, dims=1))


def one_token_late(model: PreTrainedModel) -> None:
    """The label of the token after the last one that is not padding; of the first column where there is none."""
    model.score.register_forward_hook(lambda module, inputs, logits: logits.roll(-1, dims=1))


def seen_padding(model: PreTrainedModel) -> None:
    """Padding that is attended to like any token."""

    def without_mask(module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return inputs, {**named, "attention_mask": None}

    model.register_forward_pre_hook(without_mask, with_kwargs=True)


def no_final_norm(model: PreTrainedModel) -> None:
    """Hidden states that go to the head without the final norm."""
    model.model.norm = torch.nn.Identity()


FAULTS: dict[str, Callable[[PreTrainedModel], None]] = {
    **BODY_FAULTS,
    "last-column": last_column,
    "one-token-early": one_token_early,
    "one-token-late": one_token_late,
    "seen-padding": seen_padding,
    "no-final-norm": no_final_norm,
}
