"""GPTQ's tensors, as AutoGPTQ and GPTQModel store them.

``qweight`` has the inputs of a channel packed into words down its rows, ``qzeros`` the outputs along its columns, and
``g_idx`` says which group of ``scales`` an input belongs to: https://github.com/ModelCloud/GPTQModel. The method is
Frantar et al., 2022: https://arxiv.org/abs/2210.17323.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import ConfigError
from exaone_export.model.config.values import show

from .form import Part, Quantization, Stored
from .packing import unpack
from .section import FIX, Section, check_block, check_multiple

__all__ = ["Gptq", "read_gptq"]

_WORD = 32
# Version 1 stores zero points less one.
_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True)
class Gptq:
    """A GPTQ checkpoint.

    Attributes:
        quantization: What it holds.
        bits: 4 or 8.
        zero_offset: What is added to a stored zero point.
        reordered: Whether the config says that inputs were quantized in another order (``desc_act``).
    """

    quantization: Quantization
    bits: int
    zero_offset: int
    reordered: bool

    def tensors(self, module: str, outputs: int, inputs: int) -> dict[str, Stored]:
        """See `Form.tensors`."""
        per_word = _WORD // self.bits
        check_multiple(module, "inputs", inputs, self.quantization.block or per_word)
        check_multiple(module, "outputs", outputs, per_word)
        groups = inputs // (self.quantization.block or inputs)
        return {
            "qweight": Stored(((inputs // per_word, outputs),), ("I32",)),
            "qzeros": Stored(((groups, outputs // per_word),), ("I32",)),
            "scales": Stored(((groups, outputs),)),
            "g_idx": Stored(((inputs,),), ("I32",), required=self.reordered),
        }

    def read(self, part: Part) -> QuantizedWeight:
        """See `Form.read`."""
        self._check_groups(part)
        values = unpack(part.tensor("qweight").T, self.bits)
        scale = part.tensor("scales").T.contiguous()
        zero_point = self._zero_points(part).T.contiguous()
        if not self.quantization.block:
            scale, zero_point = scale.squeeze(1), zero_point.squeeze(1)
        return QuantizedWeight(values, scale, None if self.quantization.symmetric else zero_point)

    def _check_groups(self, part: Part) -> None:
        """Raise where inputs of one group do not lie side by side.

        They could be brought together by a permutation of the inputs; but the hidden state, which most projections
        read, has one order for all of them, so that would be a gather before each product.
        """
        if not part.has("g_idx"):
            return
        expected = torch.arange(part.inputs, dtype=torch.int32) // (self.quantization.block or part.inputs)
        if not torch.equal(part.tensor("g_idx"), expected):
            raise part.error("g_idx", "separates inputs of one group (desc_act), which no block format can store")

    def _zero_points(self, part: Part) -> torch.Tensor:
        """``[groups, outputs]`` int8."""
        stored = unpack(part.tensor("qzeros"), self.bits)
        highest = (1 << self.bits - 1) - 1
        if self.zero_offset and (stored == highest).any():
            raise part.error("qzeros", "has a zero point that overflowed into its neighbour, as GPTQ's version 1 does")
        zero_points = stored + self.zero_offset
        if self.quantization.symmetric and zero_points.any():
            raise part.error("qzeros", "has zero points, and the config says sym; one of them is wrong")
        return zero_points


def read_gptq(section: Section) -> Gptq:
    """Read the config.

    Raises:
        ConfigError: It describes what cannot be exported.
    """
    bits = section.choice("bits", (4, 8))
    layout = section.choice(("checkpoint_format", "format"), tuple(_ZERO_OFFSETS), "gptq")
    section.choice("pack_dtype", ("int32",), "int32")
    section.refuse("is_marlin_format", "adapter", "rotation")
    # A rule that begins with "-:" leaves modules out, which their tensors show.
    if overrides := [rule for rule in section.keys("dynamic") if not rule.startswith("-:")]:
        raise ConfigError(
            f"{section.name}.dynamic quantizes {show(overrides[0])} differently, and only one form for all modules can "
            f"be exported; {FIX}."
        )
    quantization = Quantization(
        method="gptq",
        weights=f"int{bits}",
        block=check_block(section.size("group_size", channel=-1), f"{section.name}.group_size"),
        symmetric=section.choice("sym", (True, False)),
    )
    return Gptq(quantization, bits, _ZERO_OFFSETS[layout], section.choice("desc_act", (True, False), False))
