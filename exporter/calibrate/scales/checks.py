"""Checks of what a scales file holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from exaone_export.errors import CalibrationError

from ...checkpoint.safetensors_file import SafetensorsHeader
from ...checkpoint.tensor_file import TORCH_TYPES
from .layout import place

__all__ = ["AGAIN", "check_method", "check_scale", "check_tensors"]

AGAIN = "make it again with: exaone-export calibrate MODEL OUT --data FILE.jsonl"
"""What a user is told whose file cannot be used."""


def check_scale(scale: torch.Tensor, what: str, *, signed: bool = False) -> None:
    """Raise unless every number of a scale can be used."""
    lowest = scale.float().min().item()
    if not torch.isfinite(scale).all():
        raise CalibrationError(f"{what} is not finite; {AGAIN}.")
    if bool((scale == 0).any()) or (lowest < 0 and not signed):
        raise CalibrationError(f"{what} is {min(lowest, 0.0):g}, and it must be above 0; {AGAIN}.")


def check_method(method: str, found: float, channel_maximum: torch.Tensor, where: str) -> None:
    """Raise where a range is not what its method makes of the channels: which finds a flipped bit."""
    reach = channel_maximum.max().item()
    if method == "max" and found != reach:
        raise CalibrationError(
            f"the range of {where} is {found:g}, and its method takes the largest of its channels, {reach:g}; {AGAIN}."
        )


def check_tensors(header: SafetensorsHeader, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """Raise unless the file holds every tensor that it should, in the model's shapes, and nothing else."""
    names = {dtype: name for name, dtype in TORCH_TYPES.items()}
    for name, (dtype, shape) in expected.items():
        info = header.tensors.get(name)
        if info is None:
            *where, what = name.split(".")
            owner = place(where[1], where[2]) if len(where) > 1 else "the vocabulary projection"
            raise CalibrationError(f"{header.path} lacks the {what.replace('_', ' ')} of {owner}; {AGAIN}.")
        if info.shape != shape or info.dtype != names[dtype]:
            raise CalibrationError(
                f"{name} in {header.path} is {info.dtype} {list(info.shape)} in place of {names[dtype]} "
                f"{list(shape)}, so it is of another model; {AGAIN}."
            )
    if extra := sorted(header.tensors.keys() - expected.keys()):
        raise CalibrationError(f"{header.path} has {extra[0][:80]!r}, which the model has no place for; {AGAIN}.")
