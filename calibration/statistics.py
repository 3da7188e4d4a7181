"""Statistics of the inputs of a model's products, collected while prompts pass through them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from .histogram import Histogram

__all__ = ["InputStatistics", "Observation", "observe_inputs"]

_MOMENT_ROWS = 512


class InputStatistics:
    """One product's inputs, from one pass over them.

    Attributes:
        channel_maximum: ``[in]`` float32, the largest magnitude of each input channel; NaN where one was seen.
        channel_mean: ``[in]`` float32, the mean magnitude of each.
        histogram: Of the magnitudes of all channels.
        sample: ``[n, in]`` float32, some of the vectors, evenly apart.
        slice_maximum: The largest magnitude by slice; vectors without a slice are not among them.
        vectors: How many vectors were observed.
    """

    def __init__(self, channel_maximum: torch.Tensor, *, second_moment: bool = False, keep: int = 0) -> None:
        """Nothing seen yet.

        Args:
            channel_maximum: ``[in]`` float32, zeros.
            second_moment: Whether the second moment is summed up; it takes ``4 * in^2`` bytes.
            keep: The most vectors that the sample holds.
        """
        size = len(channel_maximum)
        self.channel_maximum = channel_maximum
        self.channel_mean = torch.zeros(size)
        self.histogram = Histogram()
        self._moment = torch.zeros(size, size) if second_moment else None
        self.sample = torch.empty(0, size)
        self.slice_maximum: dict[str, float] = {}
        self.vectors = 0
        self._keep, self._stride = keep, 1

    def add(self, inputs: torch.Tensor, slice: str = "") -> None:
        """Observe ``[..., in]``; every vector counts, so padding must not be among them.

        Args:
            inputs: Of any float dtype.
            slice: What the maximum is kept apart by, such as a language; empty for nothing.
        """
        vectors = inputs.reshape(-1, inputs.shape[-1]).float()
        if not len(vectors):
            return
        magnitudes = vectors.abs()
        largest = magnitudes.amax(0)
        # torch.maximum propagates NaN; a maximum that dropped it would hide it.
        self.channel_maximum = torch.maximum(self.channel_maximum, largest)
        self.histogram.add(magnitudes, largest.max().item())
        if slice:
            before = torch.tensor(self.slice_maximum.get(slice, 0.0))
            self.slice_maximum[slice] = torch.maximum(before, largest.max()).item()
        self._keep_some(vectors)
        # Running means, so that nothing grows with the number of vectors.
        share = len(vectors) / (self.vectors + len(vectors))
        self.channel_mean.lerp_(magnitudes.mean(0), share)
        if self._moment is not None:
            for rows in self._moment_rows(self._moment):
                part = self._moment[rows, rows.start :]
                part.addmm_(vectors[:, rows].T, vectors[:, rows.start :], beta=1 - share, alpha=share / len(vectors))
        self.vectors += len(vectors)

    @property
    def second_moment(self) -> torch.Tensor | None:
        """``[in, in]`` float32, ``sum(x x^T) / vectors``; None if it is not collected."""
        if self._moment is not None:
            for rows in self._moment_rows(self._moment):
                self._moment[rows.stop :, rows] = self._moment[rows, rows.stop :].T
        return self._moment

    @staticmethod
    def _moment_rows(moment: torch.Tensor) -> Iterator[slice]:
        """Some rows at a time: it is symmetric, so they are summed up from their first column on the diagonal."""
        size = len(moment)
        return (slice(start, min(start + _MOMENT_ROWS, size)) for start in range(0, size, _MOMENT_ROWS))

    def _keep_some(self, vectors: torch.Tensor) -> None:
        """Every vector whose number is a multiple of the stride, which doubles whenever they are too many.

        So which are kept does not depend on how the vectors came in batches.
        """
        if not self._keep:
            return
        self.sample = torch.cat((self.sample, vectors[-self.vectors % self._stride :: self._stride]))
        while len(self.sample) > self._keep:
            self.sample = self.sample[::2].clone()
            self._stride *= 2


class Observation(dict[str, InputStatistics]):
    """Statistics by product.

    Attributes:
        slice: What the inputs that pass from now on are kept apart by; empty for nothing.
    """

    slice: str = ""


@contextmanager
def observe_inputs(
    products: Mapping[str, nn.Module], *, second_moment: Collection[str] = (), keep: int = 0
) -> Iterator[Observation]:
    """Observe the first argument of every call of these modules, until the context is left.

    Args:
        products: By name, modules with a ``weight`` ``[in, out]``.
        second_moment: The products whose second moment is summed up.
        keep: The most vectors of each product that are kept.

    Yields:
        By name, what has been seen so far.
    """
    seen = Observation()
    for name, product in products.items():
        size = product.get_parameter("weight").shape[0]
        seen[name] = InputStatistics(torch.zeros(size), second_moment=name in second_moment, keep=keep)

    def hook(statistics: InputStatistics) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _module, arguments: statistics.add(arguments[0], seen.slice)

    handles = [product.register_forward_pre_hook(hook(seen[name])) for name, product in products.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
