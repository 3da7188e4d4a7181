"""AWQ: a factor for each input channel that gives the weights of channels with large inputs finer steps.

Lin et al., "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration", 2023.
"""

from __future__ import annotations

import torch

from exaone_export.errors import CalibrationError

from .number_formats import NumberFormat
from .statistics import InputStatistics
from .weight_ranges import round_weight

__all__ = ["awq_scales"]

_GRID = 20  # exponents that are tried


def awq_scales(
    weight: torch.Tensor,
    statistics: InputStatistics,
    number_format: NumberFormat,
    *,
    block: int = 0,
) -> torch.Tensor:
    """Find the factors that a weight's input channels are multiplied by, and its inputs divided by.

    The candidates are ``s = mean|x| ** a`` for ``a = 0, 1/20, 2/20 … 19/20``, divided by
    ``sqrt(max(s) * min(s))`` so that they lie around one. The winner is the one whose rounded weight
    changes the product's output least, in the sum of squares over the statistics' sample.

    Args:
        weight: ``[out, in]`` of any float dtype; finite. Products that share their inputs share factors: stack them.
        statistics: Of the inputs, with a sample.
        number_format: What the weight will be rounded to.
        block: Weights in a row that share a scale, a divisor of ``in``; 0 for one scale a row.

    Returns:
        ``[in]`` float32, above zero; ones where no exponent is better than none.

    Raises:
        CalibrationError: There is no sample, or the inputs are not finite.
    """
    if not len(statistics.sample):
        raise CalibrationError("no inputs were kept to choose AWQ's factors by; calibrate with a sample.")
    if not torch.isfinite(statistics.channel_mean).all():
        raise CalibrationError("the inputs of a product are not finite; check the checkpoint and the data.")
    weight, sample = weight.float(), statistics.sample.T.contiguous()
    # A channel that was zero, or nearly so, would get a factor far beyond all others.
    mean = statistics.channel_mean.clamp(min=1e-4 * statistics.channel_mean.max().item()).clamp(min=1e-30)
    best, least = torch.ones_like(mean), float("inf")
    for exponent in (i / _GRID for i in range(_GRID)):
        factor = mean**exponent
        factor /= (factor.max() * factor.min()).sqrt()
        rounded = round_weight(weight * factor, number_format, block=block)
        # The error of the weight, in the place of the rounded weight, so that one product is enough.
        wrong = rounded.dequantize().div_(factor).sub_(weight)
        error = torch.linalg.vector_norm(wrong @ sample).item()
        if error < least:
            best, least = factor, error
    return best
