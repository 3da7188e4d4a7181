"""Weights rounded to nearest within the range that makes the squared error of each group smallest."""

from __future__ import annotations

import torch

from .number_formats import NumberFormat
from .weights import QuantizedWeight

__all__ = ["SHRINK", "round_to_scale", "round_weight"]

SHRINK = (1.0, 0.94, 0.875, 0.81, 0.74)
"""Shares of a group's range that are tried. At 7/8, a lowest weight of int4 becomes -8."""

# So many weights at a time stay in a core's cache while every candidate passes over them.
_CHUNK = 1 << 19


def round_weight(
    weight: torch.Tensor,
    number_format: NumberFormat,
    *,
    block: int = 0,
    scale_dtype: torch.dtype = torch.float32,
    asymmetric: bool = False,
    search: bool = True,
    importance: torch.Tensor | None = None,
    signed_scale: bool = False,
) -> QuantizedWeight:
    """Round a weight to nearest, each group within the best of a few ranges.

    A range that clips a group's largest weights has smaller steps for all others. Of the shares in `SHRINK`, the one
    with the smallest ``sum(importance * (w - w')**2)`` is taken: the clipping of Banner et al. (2019), found by trying,
    and a group at a time. Without ``search``, ``asymmetric`` and ``signed_scale``, a group's scale is
    ``max(|w|) / largest``, rounded to ``scale_dtype``, and ``q = saturate(round(w / scale))`` with ties to even (ONNX
    ``QuantizeLinear``, opset 24), divided in float32. Rows are independent of each other.

    Args:
        weight: ``[out, in]`` of any float dtype; finite.
        number_format: What to round to.
        block: Weights in a row that share a scale, a divisor of ``in``; 0 for one scale a row.
        scale_dtype: float32, float16 or bfloat16.
        asymmetric: Whether a group's range is from its lowest weight to its highest, both widened to zero, with a zero
            point; for integer formats.
        search: Whether smaller ranges than the whole are tried. It is not done for float8, whose steps shrink with the
            weights, so that clipping gains nothing.
        importance: ``[in]``, the weight of each input channel's error, such as the mean square of its inputs; None
            where all count alike.
        signed_scale: Whether a scale may be negative, so that a group's largest magnitude lies on the side of zero
            where an integer format has one value more. ONNX Runtime takes such scales and TensorRT does not.

    Returns:
        Values, scales and, where ``asymmetric``, zero points. About 16 MiB are needed beside them.
    """
    assert not asymmetric or (number_format.integer and not signed_scale), number_format.name
    rows, columns = weight.shape
    size = block or columns
    values = torch.empty(rows, columns, dtype=number_format.storage)
    scale = torch.empty(rows, columns // size, dtype=scale_dtype)
    zero_point = torch.empty(scale.shape, dtype=torch.int8) if asymmetric else None
    root = None if importance is None else importance.float().sqrt().reshape(1, -1, size)
    shares = SHRINK if search and number_format.integer else SHRINK[:1]
    step = max(1, _CHUNK // columns)
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        groups = weight[chunk].float().reshape(-1, columns // size, size)
        candidates = _candidates(groups, number_format, scale_dtype, asymmetric, signed_scale, shares)
        best = candidates[0] if len(candidates) == 1 else _best(groups, number_format, candidates, root)
        scale[chunk] = best[0]
        if zero_point is not None and best[1] is not None:
            zero_point[chunk] = best[1].to(torch.int8)
        values[chunk] = round_to_scale(groups, number_format, *best).reshape(-1, columns)
    if block:
        return QuantizedWeight(values, scale, zero_point)
    return QuantizedWeight(values, scale.squeeze(1), None if zero_point is None else zero_point.squeeze(1))


def round_to_scale(
    groups: torch.Tensor, number_format: NumberFormat, scale: torch.Tensor, zero_point: torch.Tensor | None
) -> torch.Tensor:
    """``groups [..., size]`` to values, with scales and zero points ``[...]`` (ONNX ``QuantizeLinear``, opset 24)."""
    ratio = groups / scale.float().unsqueeze(-1)
    if zero_point is not None:
        ratio = ratio.round_().add_(zero_point.unsqueeze(-1))
    return number_format.quantize(ratio)


_Candidate = tuple[torch.Tensor, torch.Tensor | None]  # scales and zero points, both of the groups' shape


def _candidates(
    groups: torch.Tensor,
    number_format: NumberFormat,
    scale_dtype: torch.dtype,
    asymmetric: bool,
    signed_scale: bool,
    shares: tuple[float, ...],
) -> list[_Candidate]:
    lowest, highest = groups.amin(-1), groups.amax(-1)
    if not asymmetric:
        magnitude = torch.maximum(-lowest, highest)
        scales = [number_format.scale(magnitude * share, scale_dtype) for share in shares]
        if signed_scale:
            scales = [torch.where(highest > -lowest, -scale, scale) for scale in scales]
        return [(scale, None) for scale in scales]
    lowest, highest = lowest.clamp(max=0), highest.clamp(min=0)
    largest_step = (highest - lowest) * (number_format.largest / (number_format.largest - number_format.lowest))
    found: list[_Candidate] = []
    for share in shares:
        scale = number_format.scale(largest_step * share, scale_dtype)
        zero_point = (number_format.lowest - lowest * share / scale.float()).round_()
        found.append((scale, zero_point.clamp_(number_format.lowest, number_format.largest)))
    return found


def _best(
    groups: torch.Tensor, number_format: NumberFormat, candidates: list[_Candidate], root: torch.Tensor | None
) -> _Candidate:
    """For every group, the candidate with the smallest squared error; the first of them where that is not a number."""
    ratio, rounded = torch.empty_like(groups), torch.empty_like(groups)
    scale, zero_point = candidates[0]
    least = torch.full(groups.shape[:-1], torch.inf)
    for other_scale, other_zero_point in candidates:
        steps = other_scale.float()
        # The error in steps of the scale, so that nothing has to be scaled back.
        torch.mul(groups, steps.reciprocal().unsqueeze(-1), out=ratio)
        if other_zero_point is not None:
            ratio += other_zero_point.unsqueeze(-1)
        torch.round(ratio, out=rounded).clamp_(number_format.lowest, number_format.largest).sub_(ratio)
        if root is not None:
            rounded *= root
        error = torch.linalg.vector_norm(rounded, dim=-1) * steps.abs()
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, other_scale, scale)
        if other_zero_point is not None:
            assert zero_point is not None
            zero_point = torch.where(better, other_zero_point, zero_point)
    return scale, zero_point
