"""What the passes want filled: the initializers that they add without data, and what each is to hold.

A pass states a tensor's content where it adds the tensor, so that whoever fills a graph builds no names. The statement
travels with the value (``ir.Value.meta``) and is never written into a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from exaone_export.targets.precision import Storage

__all__ = ["CacheScale", "ReplacedWeight", "Wanted", "want", "wanted"]

_KEY = "exaone_export.wanted"

Field = Literal["values", "scale", "zero_point", "input_scale", "input_smoothing"]


@dataclass(frozen=True)
class ReplacedWeight:
    """A weight of the traced graph that a pass replaces by values of a number format and their scales.

    Attributes:
        source: The initializer of the traced graph; of a tied vocabulary projection, the embedding.
        layer: Index of the layer; None outside of the layers.
        product: ``"qkv"``, ``"output"``, ``"gate_up"`` or ``"down"``, or ``"embedding"`` or ``"head"``.
        storage: How it is stored.
    """

    source: str
    layer: int | None
    product: str
    storage: Storage


@dataclass(frozen=True)
class Wanted:
    """One tensor that stands for a replaced weight.

    Attributes:
        weight: The weight.
        field: Its ``values``, their ``scale`` or ``zero_point``, in the layout of the operator that reads them; or, of
            the product's input, the ``input_scale`` that it is rounded with, or ``input_smoothing``, what its channels
            are multiplied by.
    """

    weight: ReplacedWeight
    field: Field


@dataclass(frozen=True)
class CacheScale:
    """The scales of a layer's keys or values, one a channel: ``[1, num_key_value_heads, 1, head_dim]``.

    Attributes:
        layer: Index of the layer.
        which: ``"key"`` or ``"value"``.
    """

    layer: int
    which: Literal["key", "value"]


def want(
    graph: ir.Graph, name: str, dtype: ir.DataType, shape: tuple[int, ...], content: Wanted | CacheScale
) -> ir.Value:
    """Add an initializer without data.

    Args:
        graph: Where it is added.
        name: Of the initializer.
        dtype: Of the tensor.
        shape: Of the tensor.
        content: What it is to hold.
    """
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    value.meta[_KEY] = content
    graph.initializers[name] = value
    return value


def wanted(model: ir.Model) -> dict[str, Wanted | CacheScale]:
    """By name, what the initializers that passes have added are to hold, in the order of the graph."""
    return {name: value.meta[_KEY] for name, value in model.graph.initializers.items() if _KEY in value.meta}
