"""The tensors of compressed-tensors, as llm-compressor writes them.

Integers are stored in int8 or packed into words along the inputs, float8 as it is; scales stand for a tensor, a
channel, a group of inputs or a block: https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import ConfigError

from .form import Part, Quantization, Stored
from .packing import spread_rows, unpack
from .section import FIX, Section, check_block, check_multiple

__all__ = ["CompressedTensors", "read_compressed_tensors"]

_WORD = 32
_SCALAR: tuple[tuple[int, ...], ...] = ((1,), ())
# By the storage format: the type of number, and the bits that it may have.
_FORMATS = {
    "pack-quantized": {("int", 4), ("int", 8)},
    "int-quantized": {("int", 8)},
    "float-quantized": {("float", 8)},
    "naive-quantized": {("int", 8), ("float", 8)},
}
_STRATEGIES = ("tensor", "channel", "group", "block")


@dataclass(frozen=True)
class CompressedTensors:
    """A checkpoint of compressed-tensors.

    Attributes:
        quantization: What it holds.
        packed: Whether integers are packed into words.
        strategy: What shares a scale.
        rows: Output channels that share a scale, where the strategy is ``block``; 0 elsewhere.
    """

    quantization: Quantization
    packed: bool
    strategy: str
    rows: int = 0

    @property
    def _bits(self) -> int:
        return 4 if self.quantization.weights == "int4" else 8

    def tensors(self, module: str, outputs: int, inputs: int) -> dict[str, Stored]:
        """See `Form.tensors`."""
        block = self.quantization.block
        check_multiple(module, "inputs", inputs, block or 1)
        scales = {
            "tensor": _SCALAR,
            "channel": ((outputs, 1),),
            "group": ((outputs, inputs // (block or inputs)),),
            "block": ((-(-outputs // (self.rows or outputs)), inputs // (block or inputs)),),
        }[self.strategy]
        tensors = {"weight_scale": Stored(scales)}
        if self.packed:
            tensors["weight_packed"] = Stored(((outputs, self._words(inputs)),), ("I32",))
            tensors["weight_shape"] = Stored(((2,),), ("I64", "I32"))
        else:
            stored = "F8_E4M3" if self.quantization.weights == "float8_e4m3fn" else "I8"
            tensors["weight"] = Stored(((outputs, inputs),), (stored,))
        if not self.quantization.symmetric:
            packed = Stored(((self._words(outputs), scales[0][-1]),), ("I32",)) if self.packed else None
            tensors["weight_zero_point"] = packed or Stored(scales, ("I8",))
        if self.quantization.activations == "static":
            tensors["input_scale"] = Stored(_SCALAR)
        return tensors

    def read(self, part: Part) -> QuantizedWeight:
        """See `Form.read`."""
        if self.packed:
            self._check_shape(part)
            values = unpack(part.tensor("weight_packed"), self._bits)[:, : part.inputs].contiguous()
        else:
            values = part.tensor("weight")
        zero_point = None if self.quantization.symmetric else self._spread(self._zero_points(part), part.outputs)
        return QuantizedWeight(values, self._spread(part.tensor("weight_scale"), part.outputs), zero_point)

    def _words(self, size: int) -> int:
        return -(-size * self._bits // _WORD)

    def _check_shape(self, part: Part) -> None:
        shape = part.tensor("weight_shape").tolist()
        if shape != [part.outputs, part.inputs]:
            raise part.error("weight_shape", f"is {shape} instead of {[part.outputs, part.inputs]}")

    def _zero_points(self, part: Part) -> torch.Tensor:
        stored = part.tensor("weight_zero_point")
        return unpack(stored.T, self._bits)[:, : part.outputs].T.contiguous() if self.packed else stored

    def _spread(self, scale: torch.Tensor, outputs: int) -> torch.Tensor:
        """Scales or zero points as they are stored, to ``[outputs]`` or ``[outputs, groups]``."""
        if self.strategy == "tensor":
            return scale.reshape(1).repeat(outputs)
        if self.strategy == "channel":
            return scale.squeeze(1)
        return spread_rows(scale, self.rows, outputs) if self.rows else scale


def read_compressed_tensors(section: Section) -> CompressedTensors:
    """Read the config.

    Which modules ``targets`` and ``ignore`` mean is seen from their tensors; the patterns of a file are not run.

    Raises:
        ConfigError: It describes what cannot be exported.
    """
    section.choice("quantization_status", ("compressed",), "compressed")
    section.refuse("kv_cache_scheme", "transform_config")
    if (sparsity := section.object("sparsity_config")) is not None:
        sparsity.choice("format", ("dense",), "dense")
    layout = section.choice("format", tuple(_FORMATS))
    forms = [_read_group(group, layout) for group in section.objects("config_groups")]
    if any(form != forms[0] for form in forms):
        raise ConfigError(
            f"{section.name}.config_groups differ, and only one form for all modules can be exported; {FIX}."
        )
    return forms[0]


def _read_group(group: Section, layout: str) -> CompressedTensors:
    group.choice("format", (layout,), layout)
    group.refuse("output_activations")
    weights = group.object("weights")
    if weights is None:
        raise ConfigError(f"{group.name}.weights is missing; {FIX}.")
    weights.refuse("dynamic")
    kind = weights.choice("type", tuple(sorted({kind for kind, _ in _FORMATS[layout]})))
    bits = weights.choice("num_bits", tuple(sorted(bits for one, bits in _FORMATS[layout] if one == kind)))
    strategy = weights.choice("strategy", _STRATEGIES)
    weights.choice("actorder", ("weight", "static"), None)  # the others put inputs of one group apart
    rows, block = (weights.pair("block_structure") or (0, 0)) if strategy == "block" else (0, 0)
    if strategy == "group":
        block = weights.size("group_size")
    if strategy == "block" and not block:
        raise ConfigError(f"{weights.name}.block_structure is missing; {FIX}.")
    packed = layout == "pack-quantized"
    symmetric = weights.choice("symmetric", (True, False))
    if not symmetric and (kind == "float" or strategy == "block" or (packed and strategy == "tensor")):
        raise ConfigError(f"{weights.name} has zero points, which {layout} cannot store for a {strategy}; {FIX}.")
    quantization = Quantization(
        method="compressed-tensors",
        weights="float8_e4m3fn" if kind == "float" else f"int{bits}",
        block=check_block(block, weights.name),
        symmetric=symmetric,
        activations=_read_activations(group, kind, bits),
    )
    return CompressedTensors(quantization, packed, strategy, rows)


def _read_activations(group: Section, kind: str, bits: int) -> str | None:
    inputs = group.object("input_activations")
    if inputs is None:
        return None
    inputs.choice("type", (kind,))
    inputs.choice("num_bits", (bits,))
    if inputs.choice("dynamic", (True, False), False):
        inputs.choice("strategy", ("tensor", "token", "group"))
        return "dynamic"
    inputs.choice("strategy", ("tensor",))
    inputs.choice("symmetric", (True,))
    return "static"
