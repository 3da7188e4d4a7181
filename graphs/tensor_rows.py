"""Rows of a tensor that is stored as a whole."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["TensorRows", "follows"]


class TensorRows(ir.LazyTensor):
    """Some rows of another tensor, which is not read for them.

    Args:
        whole: The other tensor, ``[rows, …]``; a row is a whole number of bytes.
        rows: Which of its rows, with a start and a stop.
        name: Of this one.
    """

    def __init__(self, whole: ir.TensorProtocol, rows: slice, name: str) -> None:
        shape = ir.Shape((rows.stop - rows.start, *whole.shape.numpy()[1:]))
        super().__init__(lambda: ir.tensor(whole.numpy()[rows]), dtype=whole.dtype, shape=shape, name=name)
        self.whole, self.rows = whole, rows

    @property
    def byte_range(self) -> tuple[int, int]:
        """Offset and length in the whole tensor, in bytes."""
        width = self.whole.nbytes // self.whole.shape.numpy()[0]
        return self.rows.start * width, (self.rows.stop - self.rows.start) * width


def follows(after: ir.TensorProtocol | None, before: ir.TensorProtocol | None) -> bool:
    """Whether one tensor holds the rows behind another's: of one tensor, or of one file."""
    if isinstance(after, TensorRows) and isinstance(before, TensorRows):
        return after.whole is before.whole and after.rows.start == before.rows.stop
    if isinstance(after, ir.ExternalTensor) and isinstance(before, ir.ExternalTensor):
        end = (before.offset or 0) + (before.length or 0)
        return after.location == before.location and after.offset == end
    return False
