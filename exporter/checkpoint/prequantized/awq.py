"""AWQ's tensors in the ``gemm`` layout, as AutoAWQ stores them.

``qweight`` and ``qzeros`` have eight outputs to a word in an order that suits a GPU's kernel:
https://github.com/casper-hansen/AutoAWQ, ``awq/modules/linear/gemm.py``. The method is Lin et al., 2023:
https://arxiv.org/abs/2306.00978.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from exaone_export.calibration.weights import QuantizedWeight

from .form import Part, Quantization, Stored
from .packing import unpack
from .section import Section, check_block, check_multiple

__all__ = ["Awq", "read_awq"]

_BITS, _PER_WORD = 4, 8
# Where each output of a word lies: the word holds outputs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits on.
_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]


@dataclass(frozen=True)
class Awq:
    """An AWQ checkpoint.

    Attributes:
        quantization: What it holds.
    """

    quantization: Quantization

    def tensors(self, module: str, outputs: int, inputs: int) -> dict[str, Stored]:
        """See `Form.tensors`."""
        check_multiple(module, "inputs", inputs, self.quantization.block or 1)
        check_multiple(module, "outputs", outputs, _PER_WORD)
        groups = inputs // (self.quantization.block or inputs)
        return {
            "qweight": Stored(((inputs, outputs // _PER_WORD),), ("I32",)),
            "qzeros": Stored(((groups, outputs // _PER_WORD),), ("I32",)),
            "scales": Stored(((groups, outputs),)),
        }

    def read(self, part: Part) -> QuantizedWeight:
        """See `Form.read`."""
        values = _unpack(part.tensor("qweight"))
        scale = part.tensor("scales").T.contiguous()
        zero_point = _unpack(part.tensor("qzeros"))
        if self.quantization.symmetric and zero_point.any():
            raise part.error("qzeros", "has zero points, and the config says zero_point false; one of them is wrong")
        if not self.quantization.block:
            scale, zero_point = scale.squeeze(1), zero_point.squeeze(1)
        return QuantizedWeight(values, scale, None if self.quantization.symmetric else zero_point)


def _unpack(words: torch.Tensor) -> torch.Tensor:
    """``[n, outputs / 8]`` int32 to ``[outputs, n]`` int8."""
    values = unpack(words, _BITS).reshape(*words.shape, _PER_WORD)[..., _PLACES]
    return values.reshape(len(words), -1).T.contiguous()


def read_awq(section: Section) -> Awq:
    """Read the config.

    Raises:
        ConfigError: It describes what cannot be exported.
    """
    section.choice("bits", (_BITS,))
    section.choice(("version", "format"), ("gemm", "GEMM"))
    return Awq(
        Quantization(
            method="awq",
            weights="int4",
            block=check_block(section.size("group_size", channel=-1), f"{section.name}.group_size"),
            symmetric=not section.choice("zero_point", (True, False)),
        )
    )
