"""One weight of a graph, and the tensors of a checkpoint that it is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = ["Source", "Weight", "layer_prefix"]


class Source(NamedTuple):
    """A tensor of a checkpoint.

    Attributes:
        name: In the checkpoint.
        shape: ``[out, in]`` of what is multiplied, ``[vocab_size, hidden_size]`` of the embedding, ``[size]`` of norms.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """One weight of a model.

    Attributes:
        name: In a graph.
        sources: The checkpoint's tensors that it is made of, stacked along their first dimension in this order.
        transposed: Whether the checkpoint's ``[out, in]`` becomes ``[in, out]``.
        experts: How many such weights it is a stack of, ``[experts, in, out]``, the sources of one behind those of the
            one before; 0 for a single weight.
    """

    name: str
    sources: tuple[Source, ...]
    transposed: bool = False
    experts: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return tuple(source.name for source in self.sources)

    @property
    def each(self) -> tuple[Weight, ...]:
        """The weights that it is a stack of."""
        size = len(self.sources) // self.experts
        parts = (self.sources[start : start + size] for start in range(0, len(self.sources), size))
        return tuple(replace(self, sources=part, experts=0) for part in parts)


def layer_prefix(layer: int) -> str:
    """What the names of a layer's weights begin with in a graph."""
    return f"body.layers.{layer}."
