"""What goes into a model's products, observed while prompts pass through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["InputStatistics", "observe_inputs"]


@dataclass
class InputStatistics:
    """One product's inputs.

    Attributes:
        channel_maximum: ``[in]`` float32, the largest magnitude of each input channel; NaN where one was seen.
        vectors: How many vectors were observed.
    """

    channel_maximum: torch.Tensor
    vectors: int = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Observe ``[..., in]``; every vector counts, so padding must not be among them."""
        vectors = inputs.reshape(-1, inputs.shape[-1])
        # torch.maximum hands NaN on; a maximum that dropped it would hide it.
        self.channel_maximum = torch.maximum(self.channel_maximum, vectors.abs().amax(0).float())
        self.vectors += len(vectors)


@contextmanager
def observe_inputs(products: Mapping[str, nn.Module]) -> Iterator[dict[str, InputStatistics]]:
    """Observe the first argument of every call of these modules, until the context is left.

    Args:
        products: By name, modules with a ``weight`` ``[in, out]``.

    Yields:
        By name, what has been seen so far.
    """
    seen = {
        name: InputStatistics(torch.zeros(product.get_parameter("weight").shape[0]))
        for name, product in products.items()
    }

    def hook(statistics: InputStatistics) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _module, arguments: statistics.add(arguments[0])

    handles = [product.register_forward_pre_hook(hook(seen[name])) for name, product in products.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
