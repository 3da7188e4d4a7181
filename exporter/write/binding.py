"""The initializers of a graph, each bound to the call that makes its data when, and only when, it is written."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from exaone_export.errors import GraphContradictionError
from exaone_export.graphs.wanted import wanted

from ..reference.weights import WeightReader

__all__ = ["UnreadTensor", "bind_weights", "share_weights"]


class UnreadTensor(ir.LazyTensor):
    """The data of an initializer, which its reader makes anew whenever it is read.

    Args:
        name: Of the initializer.
        dtype: In the graph.
        shape: In the graph.
        reader: Makes the tensor.

    Attributes:
        reader: As given.
        error: What it has raised where the graph was written; None otherwise.
    """

    def __init__(self, name: str, dtype: ir.DataType, shape: ir.Shape, reader: WeightReader) -> None:
        super().__init__(self._read, dtype=dtype, shape=shape, name=name)
        self.reader = reader
        self.error: Exception | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype that the reader is called with; torch has no int4, so a byte holds two values."""
        return torch.int8 if self.dtype == ir.DataType.INT4 else tensor_adapters.to_torch_dtype(self.dtype)

    def _read(self) -> ir.TensorProtocol:
        try:
            data = self.reader(self.torch_dtype)
        except Exception as error:
            self.error = error
            raise
        if self.dtype == ir.DataType.INT4:
            return ir.PackedTensor(data.view(torch.uint8).numpy(), self.dtype, shape=self.shape)
        return tensor_adapters.TorchTensor(data)


def bind_weights(model: ir.Model, readers: Mapping[str, WeightReader]) -> None:
    """Give every initializer its data, unread.

    Args:
        model: A lowered graph.
        readers: By initializer name, what makes it.

    Raises:
        GraphContradictionError: An initializer has no reader, and is not a constant either.
    """
    for name, value in model.graph.initializers.items():
        if name in readers:
            assert value.dtype is not None and isinstance(value.shape, ir.Shape)
            value.const_value = UnreadTensor(name, value.dtype, value.shape, readers[name])
        elif value.const_value is None or isinstance(value.const_value.raw, torch.Tensor):
            # What tracing leaves of a weight is a fake tensor, and of a constant an array.
            raise GraphContradictionError(
                f"the graph has the weight {name}, and nothing in the checkpoint is read for it; report this with the "
                f"model's config.json and the command."
            )


def share_weights(model: ir.Model, other: ir.Model) -> None:
    """Give a graph the very tensors of another one where both are to hold the same: they are then stored once.

    Args:
        model: A graph of the same model, whose initializers have their data.
        other: The other one; likewise.
    """
    mine, theirs = wanted(model), wanted(other)
    for name, value in model.graph.initializers.items():
        twin = other.graph.initializers.get(name)
        if twin is None or mine.get(name) != theirs.get(name) or (twin.dtype, twin.shape) != (value.dtype, value.shape):
            continue
        if isinstance(value.const_value, UnreadTensor):
            value.const_value = twin.const_value
