"""GPTQ: rounding one input channel after the other, the error of each compensated by those that follow.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022, in the form
of Chee et al., "QuIP", 2023, who show it equal to rounding with linear feedback: with the factorization
``H = U diag(d) U^T`` of the inputs' second moment, U upper triangular of unit diagonal, channel k is rounded from
``w_k + sum_{j < k} (w_j - w'_j) U_jk``. So one triangular factorization is all that is needed, and no inverse.
"""

from __future__ import annotations

import torch

from exaone_export.errors import CalibrationError

from .number_formats import NumberFormat
from .weight_ranges import round_weight
from .weights import QuantizedWeight

__all__ = ["gptq"]

_LAZY, _INNER = 512, 32  # channels after which the feedback is taken as one product, of two sizes
# Share of the mean of the second moment's diagonal that is added to it; more where it cannot be factored otherwise.
_DAMPING, _MOST_DAMPING = 0.01, 1.0


def gptq(
    weight: torch.Tensor,
    second_moment: torch.Tensor,
    number_format: NumberFormat,
    *,
    block: int = 0,
    scale_dtype: torch.dtype = torch.float32,
    signed_scale: bool = False,
) -> QuantizedWeight:
    """Round a weight so that the product's output changes least over the calibration data.

    Channels are taken in the order of falling mean square ("activation order"), because those that come late have
    nothing left to make their errors good. Scales are found before, by `round_weight`'s search, so groups stay where
    they are in memory. A channel whose inputs were always zero takes no part and is rounded to nearest.

    Args:
        weight: ``[out, in]`` of any float dtype; finite.
        second_moment: ``[in, in]`` float32, ``sum(x x^T) / vectors`` of the product's inputs.
        number_format: What to round to; an integer format.
        block: Weights in a row that share a scale, a divisor of ``in``; 0 for one scale a row.
        scale_dtype: float32, float16 or bfloat16.
        signed_scale: As `round_weight`'s.

    Returns:
        Values and scales.

        The work is ``in^3 / 3 + out * in^2`` additions and multiplications. Needed beside the arguments and what is
        returned are two matrices of the second moment's size, or one and two and a half float32 copies of the weight:
        0.15 GiB for 4,096 inputs and 2,048 outputs, 5.6 GiB for 27,392 and 5,120.

    Raises:
        CalibrationError: The second moment is not finite, or cannot be factored.
    """
    assert number_format.integer, number_format.name
    diagonal = second_moment.diagonal().float()
    nearest = round_weight(
        weight,
        number_format,
        block=block,
        scale_dtype=scale_dtype,
        signed_scale=signed_scale,
        importance=_importance(diagonal),
    )
    order = diagonal.argsort(descending=True, stable=True)
    feedback = _feedback(second_moment, order)
    # By input channel, so that every step reads and writes rows.
    exact = weight.float().T.contiguous()[order]
    scale = nearest.scale.float().reshape(len(weight), -1).T.contiguous()
    groups = order // (block or len(order))
    values = _round_in_turn(exact, groups, scale, number_format, feedback)
    nearest.values.copy_(values[order.argsort()].T)
    return nearest


def _round_in_turn(
    exact: torch.Tensor,
    groups: torch.Tensor,
    scale: torch.Tensor,
    number_format: NumberFormat,
    feedback: torch.Tensor,
) -> torch.Tensor:
    """``[in, out]`` weights, in the order in which they are rounded, to values of the format's storage type.

    ``groups [in]`` has the rows of ``scale [groups, out]`` that the channels take.
    """
    values = torch.empty(exact.shape, dtype=number_format.storage)
    error = torch.empty_like(exact)
    for start in range(0, len(exact), _LAZY):
        stop = min(start + _LAZY, len(exact))
        target = torch.addmm(exact[start:stop], feedback[:start, start:stop].T, error[:start])
        for inner in range(start, stop, _INNER):
            end = min(inner + _INNER, stop)
            near = target[inner - start : end - start]
            if inner > start:
                near.addmm_(feedback[start:inner, inner:end].T, error[start:inner])
            step = scale[groups[inner:end]]
            # This runs for every channel of a model, so nothing is allocated: weights become steps in place.
            for i, steps in enumerate(near):
                k = inner + i
                if i:
                    steps.addmv_(error[inner:k].T, feedback[inner:k, k])
                steps.div_(step[i]).round_().clamp_(number_format.lowest, number_format.largest)
                torch.addcmul(exact[k], steps, step[i], value=-1, out=error[k])
            values[inner:end] = near
    return values


def _importance(diagonal: torch.Tensor) -> torch.Tensor:
    """The mean square of every channel, at least a hundredth of their mean."""
    return diagonal + 0.01 * diagonal.mean()


def _feedback(second_moment: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
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
    damping = _DAMPING
    while True:
        diagonal += damping * mean
        factor, failed = torch.linalg.cholesky_ex(moment)
        if not failed:
            break
        damping *= 10
        if damping > _MOST_DAMPING:
            raise CalibrationError("the second moment of a product's inputs is not that of any data; calibrate again.")
    del moment, diagonal  # as large as what follows
    factor = factor.flip(0, 1)
    return factor.div_(factor.diagonal().clone())
