"""GPTQ: rounding one input channel after the other, the error of each made good by those that follow.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022, in the form
of Chee et al., "QuIP", 2023, who show it equal to rounding with linear feedback: with the factorization
``H = U diag(d) U^T`` of the inputs' second moment, U upper triangular of unit diagonal, channel k is rounded from
``w_k + sum_{j < k} (w_j - w'_j) U_jk``. So one triangular factorization is all that is needed, and no inverse.
"""

from __future__ import annotations

import torch

from exaone_export.calibration.number_formats import NumberFormat
from exaone_export.calibration.weight_ranges import round_to_scale, round_weight
from exaone_export.calibration.weights import QuantizedWeight
from exaone_export.errors import CalibrationError

__all__ = ["gptq"]

_LAZY, _INNER = 512, 32  # channels after which the feedback is taken as one product, of two sizes
_MOST_DAMPING = 1.0


def gptq(
    weight: torch.Tensor,
    second_moment: torch.Tensor,
    number_format: NumberFormat,
    *,
    block: int = 0,
    scale_dtype: torch.dtype = torch.float32,
    asymmetric: bool = False,
    damping: float = 0.01,
    signed_scale: bool = False,
) -> QuantizedWeight:
    """Round a weight so that the product's output changes least over the calibration data.

    Channels are taken in the order of falling mean square ("activation order"), because those that come late have
    nothing left to make their errors good. Scales are found before, by `round_weight`'s search, so groups stay where
    they are in memory. A channel whose inputs were always zero takes no part and is rounded to nearest.

    Args:
        weight: ``[out, in]`` of any float dtype; finite.
        second_moment: ``[in, in]`` float32, ``sum(x x^T) / vectors`` of the product's inputs.
        number_format: What to round to.
        block: Weights in a row that share a scale, a divisor of ``in``; 0 for one scale a row.
        scale_dtype: float32, float16 or bfloat16.
        asymmetric: As `round_weight`'s.
        damping: Share of the mean of the second moment's diagonal that is added to it.
        signed_scale: As `round_weight`'s.

    Returns:
        Values, scales and, where ``asymmetric``, zero points.

        The work is ``in^3 / 3 + out * in^2`` multiplications. Needed beside the arguments are three float32 copies of
        the weight and two matrices of the second moment's size: 0.2 GiB for 4,096 inputs and 2,048 outputs, 7.2 GiB for
        27,392 and 5,120.

    Raises:
        CalibrationError: The second moment is not finite, or cannot be factored.
    """
    diagonal = second_moment.diagonal().float()
    nearest = round_weight(
        weight,
        number_format,
        block=block,
        scale_dtype=scale_dtype,
        asymmetric=asymmetric,
        signed_scale=signed_scale,
        importance=_importance(diagonal),
    )
    order = diagonal.argsort(descending=True, stable=True)
    feedback = _feedback(second_moment, order, damping)
    # By input channel, so that every step reads and writes rows.
    exact = weight.T.float()[order]
    size = block or weight.shape[1]
    groups = order // size
    scale_t = nearest.scale.float().reshape(len(weight), -1).T.contiguous()
    zero_point_t = (
        None if nearest.zero_point is None else nearest.zero_point.float().reshape(len(weight), -1).T.contiguous()
    )
    values = torch.empty(exact.shape, dtype=number_format.storage)
    error = torch.empty_like(exact)
    for start in range(0, len(order), _LAZY):
        stop = min(start + _LAZY, len(order))
        target = torch.addmm(exact[start:stop], feedback[:start, start:stop].T, error[:start])
        for inner in range(start, stop, _INNER):
            end = min(inner + _INNER, stop)
            if inner > start:
                target[inner - start : end - start].addmm_(feedback[start:inner, inner:end].T, error[start:inner])
            for k in range(inner, end):
                wanted = target[k - start]
                if k > inner:
                    wanted.addmv_(error[inner:k].T, feedback[inner:k, k])
                group = groups[k]
                scale = scale_t[group]
                zero_point = None if zero_point_t is None else zero_point_t[group]
                values[k] = rounded = round_to_scale(wanted.unsqueeze(-1), number_format, scale, zero_point).squeeze(-1)
                found = rounded.float()
                if zero_point is not None:
                    found -= zero_point
                torch.sub(exact[k], found.mul_(scale), out=error[k])
    nearest.values[:, order] = values.T
    return nearest


def _importance(diagonal: torch.Tensor) -> torch.Tensor:
    """The mean square of every channel, and for those that hardly spoke a hundredth of the mean one."""
    return diagonal + 0.01 * diagonal.mean()


def _feedback(second_moment: torch.Tensor, order: torch.Tensor, damping: float) -> torch.Tensor:
    """``[in, in]``: U of the module's docstring, of the damped second moment with its channels in ``order``."""
    if not torch.isfinite(second_moment).all():
        raise CalibrationError(
            "the second moment of a product's inputs is not finite; check the checkpoint and the data."
        )
    # The factor of the reversed matrix is lower triangular, and reversed itself it is the upper one that is wanted.
    backwards = order.flip(0)
    moment = second_moment.float()[backwards][:, backwards]
    diagonal = moment.diagonal()
    silent = diagonal == 0
    mean = diagonal.mean().item()
    diagonal[silent] = mean or 1.0
    while True:
        diagonal += damping * mean
        factor, failed = torch.linalg.cholesky_ex(moment)
        if not failed:
            break
        damping *= 10
        if damping > _MOST_DAMPING:
            raise CalibrationError("the second moment of a product's inputs is not that of any data; calibrate again.")
    factor = factor.flip(0, 1)
    return factor.div_(factor.diagonal().clone())
