"""A layer as it computes after quantization, to measure what that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from exaone_export.calibration.number_formats import NumberFormat
from exaone_export.calibration.weights import QuantizedWeight

from ..reference.layer_stream import StreamedLayer

__all__ = ["rounded"]


@contextmanager
def rounded(
    streamed: StreamedLayer,
    weights: Mapping[str, QuantizedWeight],
    ranges: Mapping[str, float],
    input_format: NumberFormat | None,
) -> Iterator[None]:
    """Give a layer its rounded weights, and round its products' inputs where they have a format; undone at the end."""
    products = streamed.products
    exact = {part: product.weight for part, product in products.items()}
    handles = []
    for part, product in products.items():
        product.weight = nn.Parameter(weights[part].dequantize().T, requires_grad=False)
        if input_format is not None:
            handles.append(product.register_forward_pre_hook(_round_to(ranges[part], input_format)))
    try:
        yield
    finally:
        for part, product in products.items():
            product.weight = exact[part]
        for handle in handles:
            handle.remove()


def _round_to(
    reach: float, number_format: NumberFormat
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    scale = number_format.scale(torch.tensor(reach))
    return lambda _module, inputs: (number_format.quantize(inputs[0] / scale).float() * scale, *inputs[1:])
