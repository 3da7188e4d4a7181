"""The stacked weights of experts in the layout of ONNX Runtime's operators, some rows of one expert at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch

from exaone_export.calibration.number_formats import FORMATS
from exaone_export.calibration.weight_ranges import round_weight
from exaone_export.model.tensors import Weight
from exaone_export.targets.precision import Storage

from ..checkpoint.checkpoint import Checkpoint
from ..reference.weights import rows_at_once
from .stored_weights import pack_nibbles, unsigned

__all__ = ["ExpertWeights"]


class ExpertWeights:
    """One stack ``[experts, out, in]`` with its scales, from one reading; scales are kept until they are requested.

    Where an expert has two sources, gate and up, the rows of the two take turns.

    Args:
        checkpoint: Where weights come from.
        weight: The stack.
        storage: How it is stored.
    """

    def __init__(self, checkpoint: Checkpoint, weight: Weight, storage: Storage) -> None:
        self._checkpoint, self._weight, self._storage = checkpoint, weight, storage
        self._scale: torch.Tensor | None = None
        self._lock = threading.Lock()  # the writer has several threads

    def values(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """Rows of one expert after the other, in the operator's layout."""
        with self._lock:
            yield from self._values(dtype)

    def scale(self, _dtype: torch.dtype) -> Iterator[torch.Tensor]:
        """``[experts, out]``, or ``[experts, out, in / block]``, float32."""
        with self._lock:
            if self._scale is None:
                for _ in self._values(torch.uint8):
                    pass
            scale, self._scale = self._scale, None
            assert scale is not None
            yield scale

    def _values(self, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        storage, done, scale = self._storage, 0, None
        for rows in self._rows():
            if storage.weights not in FORMATS:
                yield rows.to(dtype)
                continue
            rounded = round_weight(
                rows,
                FORMATS[storage.weights],
                block=storage.block,
                search=storage.weights == "int4",
                signed_scale=storage.weights == "int4",
            )
            if scale is None:  # whole from the beginning: small parts that stay would keep the heap from shrinking
                names = self._weight.names
                outputs = sum(self._checkpoint.shape(name)[0] for name in names)
                scale = torch.empty(outputs, *rounded.scale.shape[1:])
            scale[done : (done := done + len(rows))] = rounded.scale
            yield (pack_nibbles if storage.weights == "int4" else unsigned)(rounded.values)
            del rows, rounded  # before the next is read
        if scale is not None:
            self._scale = scale.unflatten(0, (self._weight.experts, -1))

    def _rows(self) -> Iterator[torch.Tensor]:
        """Every expert's rows, gate and up in turn, in the checkpoint's dtype."""
        for expert in self._weight.each:
            columns = self._checkpoint.shape(expert.names[0])[1]
            step = rows_at_once(columns * len(expert.names), torch.float32.itemsize)
            parts = (self._checkpoint.read_rows(name, step) for name in expert.names)
            for together in zip(*parts, strict=True):
                yield torch.stack(together, 1).flatten(0, 1) if len(together) > 1 else together[0]
                del together
