"""Weights of the reference model, read from the checkpoint's tensors that make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from exaone_export.errors import CheckpointError
from exaone_export.model.tensors import Weight, weight_table
from exaone_export.targets.cache_layout import CacheLayout

from ..checkpoint.checkpoint import Checkpoint
from .model import Reference
from .rope import rope_tables

COMPUTE_WIDER = "pass --precision float32 or bfloat16, or --compute-type bfloat16 beside a quantized one"
"""What a user is told whose model float16 does not hold."""

# Of a tensor that is read a part at a time. Larger parts are no faster, and the heap keeps more of them; in smaller
# ones a transposed row of the largest models is a few bytes.
_PART_BYTES = 8 << 20


def read_weight(checkpoint: Checkpoint, weight: Weight, dtype: torch.dtype) -> torch.Tensor:
    """Read, stack, cast and transpose one weight; nothing of it is kept afterwards.

    Raises:
        CheckpointError: A tensor is damaged or holds a value that is not finite.
    """
    if weight.experts:
        return torch.stack([read_weight(checkpoint, each, dtype) for each in weight.each])
    shapes = [checkpoint.shape(name) for name in weight.names]
    outputs = sum(shape[0] for shape in shapes)
    parts = weight_rows(checkpoint, weight, dtype)
    return stack(parts, (outputs, *shapes[0][1:]), dtype, transposed=weight.transposed)


def stack(
    parts: Iterable[torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype, *, transposed: bool = False
) -> torch.Tensor:
    """Put rows behind each other as they come, so that beside the whole there is one part in memory.

    Args:
        parts: ``[rows, …]`` each.
        shape: Of all of them together.
        dtype: Theirs.
        transposed: Whether the two dimensions change places.
    """
    whole = torch.empty(shape[::-1] if transposed else shape, dtype=dtype)
    done = 0
    for part in parts:
        # Transposed on its own first: torch does that in blocks, which a copy into columns would not be.
        rows = part.T.contiguous() if transposed else part
        whole.narrow(int(transposed), done, len(part)).copy_(rows)
        done += len(part)
        del part, rows  # before the next is read
    assert done == whole.shape[int(transposed)], f"{done} rows of {tuple(shape)}"
    return whole


def rows_at_once(columns: int, item_size: int) -> int:
    """How many rows of a checkpoint's tensor are read at a time: an even number, for two int4 values share a byte."""
    return max(_PART_BYTES // (columns * item_size), 2) // 2 * 2


def weight_rows(checkpoint: Checkpoint, weight: Weight, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Read and cast one weight some output channels at a time, each part ``[rows, in]``; raises as `read_weight`."""
    for name in weight.names:
        columns = math.prod(checkpoint.shape(name)[1:])
        parts = checkpoint.read_rows(name, rows_at_once(columns, dtype.itemsize))
        yield from map(partial(_cast, dtype=dtype, name=name), parts)


def _cast(tensor: torch.Tensor, *, dtype: torch.dtype, name: str) -> torch.Tensor:
    if dtype == torch.float16 and tensor.dtype != dtype:
        largest = tensor.abs().max().item()
        if largest > torch.finfo(dtype).max:
            raise CheckpointError(f"tensor {name} holds {largest:.3g}, which float16 does not: {COMPUTE_WIDER}.")
    return tensor.to(dtype)


@dataclass(frozen=True)
class WeightReader:
    """Makes one tensor of a graph, or of the reference model, when it is called.

    Attributes:
        parts: In the requested dtype, contiguous pieces of the tensor, one behind the other.
        source: What it is made of; tensors of one source are made by one reading.
        whole: Whether there is one part, which holds the whole tensor.
    """

    parts: Callable[[torch.dtype], Iterator[torch.Tensor]]
    source: Hashable
    whole: bool = False

    def __call__(self, dtype: torch.dtype) -> torch.Tensor:
        """The whole tensor."""
        parts = list(self.parts(dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def weight_readers(checkpoint: Checkpoint, layout: CacheLayout) -> dict[str, WeightReader]:
    """For every tensor of the reference model, by name, what makes it."""

    def transposed(weight: Weight, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        yield read_weight(checkpoint, weight, dtype)

    def one_by_one(weight: Weight, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        yield from (read_weight(checkpoint, each, dtype)[None] for each in weight.each)

    def reader(weight: Weight) -> WeightReader:
        if weight.experts:
            return WeightReader(partial(one_by_one, weight), weight)
        if weight.transposed:
            return WeightReader(partial(transposed, weight), weight, whole=True)
        return WeightReader(partial(weight_rows, checkpoint, weight), weight)

    def table(which: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
        yield rope_tables(checkpoint.spec, layout.max_length)[which].to(dtype)

    readers = {name: reader(weight) for name, weight in weight_table(checkpoint.spec).items()}
    return readers | {
        name: WeightReader(partial(table, which), name, whole=True)
        for which, name in enumerate(("body.cos", "body.sin"))
    }


def load_reference(checkpoint: Checkpoint, layout: CacheLayout, dtype: torch.dtype = torch.float32) -> Reference:
    """The reference model with the checkpoint's weights, for parity and calibration."""
    with torch.device("meta"):
        model = Reference(checkpoint.spec, layout, dtype)
    table, readers = weight_table(checkpoint.spec), weight_readers(checkpoint, layout)
    state = {
        name: read_weight(checkpoint, table[name], tensor.dtype) if name in table else readers[name](tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
