"""Float8 weights under the method ``fp8``: blocks of scales, or one for a tensor.

``w = weight * weight_scale_inv``, whatever the name suggests: transformers' ``FineGrainedFP8Config``, and DeepSeek-V3,
https://arxiv.org/abs/2412.19437, section 3.3. Without blocks the names are those of AutoFP8,
https://github.com/neuralmagic/AutoFP8.
"""

from __future__ import annotations

from dataclasses import dataclass

from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import ConfigError

from .form import Part, Quantization, Stored
from .packing import spread_rows
from .section import FIX, Section, check_block, check_multiple

__all__ = ["Fp8", "read_fp8"]


@dataclass(frozen=True)
class Fp8:
    """A checkpoint of float8 E4M3 weights.

    Attributes:
        quantization: What it holds.
        rows: Output channels that share a scale, where scales go by blocks; 0 where a tensor has one.
    """

    quantization: Quantization
    rows: int

    def tensors(self, module: str, outputs: int, inputs: int) -> dict[str, Stored]:
        """See `Form.tensors`."""
        tensors = {"weight": Stored(((outputs, inputs),), ("F8_E4M3",))}
        if self.rows:
            check_multiple(module, "inputs", inputs, self.quantization.block)
            shape = (-(-outputs // self.rows), inputs // self.quantization.block)
            return tensors | {"weight_scale_inv": Stored((shape,))}
        scalar = Stored(((1,), ()))
        return tensors | {"weight_scale": scalar} | ({"input_scale": scalar} if self._static else {})

    def read(self, part: Part) -> QuantizedWeight:
        """See `Form.read`."""
        if self.rows:
            scale = spread_rows(part.tensor("weight_scale_inv"), self.rows, part.outputs)
        else:
            scale = part.tensor("weight_scale").reshape(1).repeat(part.outputs)
        return QuantizedWeight(part.tensor("weight"), scale)

    @property
    def _static(self) -> bool:
        return self.quantization.activations == "static"


def read_fp8(section: Section) -> Fp8:
    """Read the config.

    Raises:
        ConfigError: It describes what cannot be exported.
    """
    section.choice("fmt", ("e4m3",), "e4m3")
    section.choice("scale_fmt", ("float",), "float")
    activations = section.choice("activation_scheme", ("dynamic", "static"))
    rows, block = section.pair("weight_block_size") or (0, 0)
    if rows and activations == "static":
        raise ConfigError(f"{section.name} has both weight_block_size and static activations; {FIX}.")
    check_block(block, f"{section.name}.weight_block_size")
    return Fp8(Quantization("fp8", "float8_e4m3fn", block, symmetric=True, activations=activations), rows)
