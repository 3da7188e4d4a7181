"""Steps for a kernel whose rows must all have the same number of tokens.

ONNX Runtime's ``GroupQueryAttention`` takes ragged rows by its input ``query_seqlens``, which 1.31 does not have.
Without it, a step of more than one token a row needs rows that all begin with this step and have all its columns: over
a cache that holds tokens it is refused for more than one row, and so are prompts of different lengths over a
window-sized cache. One row alone, and one token for each row, always run.

Legend: B batch, W columns, b rows that run together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..core.steps import Step
from .packing import pack


def dense_steps(
    input_ids_BW: np.ndarray, first: int, pads: Sequence[int], kept: Sequence[int] = (0,)
) -> Iterator[tuple[slice, Step]]:
    """Cut columns into steps that such a kernel takes: all rows together where they can be, else row by row.

    Args:
        input_ids_BW: The columns, left-padded.
        first: Index of the first of them in the whole batch, those of the cache included.
        pads: Columns of left padding of every row.
        kept: The columns whose outputs are wanted, counted back from the last one.

    Yields:
        The rows of the batch, and their step, in which every row has all ``W`` columns or is alone. A row that has
        nothing but padding is left out, unless every row runs with it.
    """
    rows, width = input_ids_BW.shape
    if width == 1 or rows == 1 or (first == 0 and not any(pads)):
        step = pack(input_ids_BW, first, pads, kept)
        if step is not None:
            whole = slice(0, rows)
            yield whole, step if rows > 1 or width == 1 else _trimmed(step)
        return
    for row, pad in enumerate(pads):
        alone = slice(row, row + 1)
        step = pack(input_ids_BW[alone], first, [pad], kept)
        if step is not None:
            yield alone, _trimmed(step)


def _trimmed(step: Step) -> Step:
    """One row's step without the padding behind its tokens."""
    return step._replace(input_ids=step.input_ids[:, : step.counts[0]])
