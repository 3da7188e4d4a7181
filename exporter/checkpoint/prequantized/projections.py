"""The quantized projections of a checkpoint: which they are, their tensors, and reading several as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CheckpointError
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import expected_tensors, head_weights, projection_sources

from ..safetensors_file import FLOAT_TYPES
from .form import Form, Part, Quantization, Stored

__all__ = ["Projections"]

Read = Callable[[str], torch.Tensor]

_WEIGHT, _BIAS = ".weight", ".bias"
_INPUT_SCALE = "input_scale"
_AGAIN = "download the checkpoint again, or choose another"


@dataclass(frozen=True)
class Projections:
    """The projections that a checkpoint stores in one form.

    Attributes:
        form: How they are stored.
        quantization: What they are, with the names of those that are left out.
        shapes: ``(outputs, inputs)`` by the name of the weight, as a checkpoint that is not quantized has it.
        stored: The names of all tensors.
    """

    form: Form
    quantization: Quantization
    shapes: Mapping[str, tuple[int, int]]
    stored: frozenset[str]

    @classmethod
    def find(cls, form: Form, spec: ModelSpec, found: Mapping[str, str]) -> Projections:
        """Find by their tensors which projections are quantized.

        Args:
            form: How quantized ones are stored.
            spec: The architecture.
            found: The tensors of this one, with their types.

        Raises:
            ConfigError: A projection's shape cannot be stored in this form.
            CheckpointError: No projection is quantized.
        """
        shapes: dict[str, tuple[int, int]] = {}
        unquantized = []
        described = {name.rpartition(".")[0] for name in found if not name.endswith((_WEIGHT, _BIAS))}
        layers, dense = projection_sources(spec), expected_tensors(spec)
        heads = {name for weight in head_weights(spec) for name in weight.names if name.endswith(_WEIGHT)}
        for name, shape in dense.items():
            if name not in layers and name not in heads:
                continue
            module = name.removesuffix(_WEIGHT)
            # Only of a quantized projection, since the others may have any shape.
            if found.get(name, FLOAT_TYPES[0]) in FLOAT_TYPES and (
                module not in described
                or not any(f"{module}.{one}" in found for one in form.tensors(module, *shape).keys() - {"weight"})
            ):
                unquantized += [module] if name in layers else []
            else:
                shapes[name] = (shape[0], shape[1])
        if layers.isdisjoint(shapes):
            raise CheckpointError(
                "quantization_config is set, and no projection is quantized; remove it from config.json."
            )
        return cls(form, replace(form.quantization, unquantized=tuple(unquantized)), shapes, frozenset(found))

    def expected(self, dense: Mapping[str, tuple[int, ...]]) -> dict[str, Stored]:
        """Every tensor that the checkpoint must have; unquantized ones as in ``dense``."""
        expected: dict[str, Stored] = {}
        for name, shape in dense.items():
            if name not in self.shapes:
                expected[name] = Stored((shape,))
                continue
            module = name.removesuffix(_WEIGHT)
            for suffix, stored in self.form.tensors(module, *self.shapes[name]).items():
                expected[f"{module}.{suffix}"] = stored
        return expected

    def read(self, read: Read, names: Sequence[str]) -> QuantizedWeight:
        """Projections as one weight, stacked along the outputs in the order of their names; see `Checkpoint`."""
        parts = [self._weight(read, name) for name in names]
        if len(parts) == 1:
            return parts[0]
        if len({part.scale.dtype for part in parts}) > 1:
            raise CheckpointError(f"the scales of {', '.join(names)} differ in type; download the checkpoint again.")
        zero_points = [part.zero_point for part in parts if part.zero_point is not None]
        return QuantizedWeight(
            torch.cat([part.values for part in parts]),
            torch.cat([part.scale for part in parts]),
            torch.cat(zero_points) if zero_points else None,
        )

    def read_input_scale(self, read: Read, names: Sequence[str]) -> torch.Tensor | None:
        """The input scale of projections; of several with the same input, the largest, which clips in none."""
        if self.quantization.activations != "static":
            return None
        scales = []
        for name in names:
            part = self._part(read, name)
            scale = part.tensor(_INPUT_SCALE).reshape(()).float()
            if not scale > 0:
                raise part.error(_INPUT_SCALE, f"is {scale.item():g}, and it must be above 0")
            scales.append(scale)
        return torch.stack(scales).max()

    def _part(self, read: Read, name: str) -> Part:
        if name not in self.shapes:
            raise CheckpointError(f"the checkpoint does not have {name} quantized; read it in floating point.")
        return Part(name.removesuffix(_WEIGHT), *self.shapes[name], read, self.stored)

    def _weight(self, read: Read, name: str) -> QuantizedWeight:
        part = self._part(read, name)
        weight = self.form.read(part)
        if not (weight.scale > 0).all():
            lowest = weight.scale.min().item()
            raise CheckpointError(f"{part.module} has the scale {lowest:g}, which must be positive; {_AGAIN}.")
        return weight
