"""The initializers of a graph, each bound to the call that makes its data when, and only when, it is written."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters

from exaone_export.errors import GraphContradictionError

from ..reference.weights import WeightReader

__all__ = ["UnreadTensor", "bind_weights"]


class UnreadTensor(ir.LazyTensor):
    """The data of an initializer, which its reader makes anew whenever it is read.

    Args:
        name: Of the initializer.
        dtype: In the graph.
        shape: In the graph.
        reader: Makes the tensor.
    """

    def __init__(self, name: str, dtype: ir.DataType, shape: ir.Shape, reader: WeightReader) -> None:
        super().__init__(self._read, dtype=dtype, shape=shape, name=name)
        self.reader = reader

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype that the reader is called with; torch has no int4, so a byte holds two values."""
        return torch.int8 if self.dtype == ir.DataType.INT4 else tensor_adapters.to_torch_dtype(self.dtype)

    def _read(self) -> ir.TensorProtocol:
        data = self.reader(self.torch_dtype)
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
