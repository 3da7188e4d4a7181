"""The interface of a quantized checkpoint's form: what it stores, in which tensors, and how to read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CheckpointError

from ..safetensors_file import FLOAT_TYPES

__all__ = ["Form", "Part", "Quantization", "Stored"]


@dataclass(frozen=True)
class Quantization:
    """How the projections of a checkpoint are stored.

    Attributes:
        method: The ``quant_method`` of its config.
        weights: ``int4``, ``int8`` or ``float8_e4m3fn``.
        block: How many weights of an output channel, in a row, share a scale; 0 where the whole channel does.
        symmetric: Whether there are no zero points.
        activations: None where the products' inputs are not rounded, ``static`` where the checkpoint has a scale for
            each product's inputs, ``dynamic`` where scales are taken from the inputs themselves. The format is that of
            the weights.
        unquantized: Projections of the layers that are stored in floating point, by module name.
    """

    method: str
    weights: str
    block: int
    symmetric: bool
    activations: str | None = None
    unquantized: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stored:
    """One tensor that a file must hold.

    Attributes:
        shapes: Those it may have; a scalar is written with one dimension, or with none.
        dtypes: Those it may have, by safetensors' names.
        required: Whether it must be there.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...] = FLOAT_TYPES
    required: bool = True


@dataclass(frozen=True)
class Part:
    """One quantized projection.

    Attributes:
        module: Its name, ``model.layers.0.mlp.down_proj``.
        outputs: Rows of its weight.
        inputs: Columns of its weight.
        read: Reads a tensor of the checkpoint by its whole name; floats are finite.
        stored: The names of the checkpoint's tensors.
    """

    module: str
    outputs: int
    inputs: int
    read: Callable[[str], torch.Tensor]
    stored: frozenset[str] = frozenset()

    def tensor(self, suffix: str) -> torch.Tensor:
        """Read the tensor with this suffix."""
        return self.read(f"{self.module}.{suffix}")

    def has(self, suffix: str) -> bool:
        """Whether the checkpoint has a tensor with this suffix."""
        return f"{self.module}.{suffix}" in self.stored

    def error(self, suffix: str, found: str) -> CheckpointError:
        """The error that names a tensor, with what was found in it."""
        return CheckpointError(f"{self.module}.{suffix} {found}; choose the original checkpoint, and a --precision.")


class Form(Protocol):
    """One way to store quantized projections, decided by ``quantization_config``."""

    @property
    def quantization(self) -> Quantization:
        """What the checkpoint holds."""

    def tensors(self, module: str, outputs: int, inputs: int) -> dict[str, Stored]:
        """The tensors that store a projection's weight, by suffix.

        Raises:
            ConfigError: A projection of this shape cannot be stored in this form.
        """

    def read(self, part: Part) -> QuantizedWeight:
        """The codes and scales of one projection, ``[outputs, inputs]``.

        Raises:
            CheckpointError: The tensors contradict the config or themselves.
        """
