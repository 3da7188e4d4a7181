"""Columns of a batch through a session: cut into steps, and what they give put together.

Legend: B batch, S columns of a call, W columns of one step, K columns whose outputs are wanted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch

from ..core.steps import Step
from ..sessions import Session
from ..sessions.torch_memory import as_tensor, torch_dtype
from . import packing
from .cache import HybridCache
from .dense_steps import dense_steps

__all__ = ["run_columns"]


def run_columns(
    session: Session,
    cache: HybridCache,
    input_ids_BS: torch.Tensor,
    pads: list[int],
    kept: Sequence[int],
    chunk: int,
) -> tuple[torch.Tensor, ...]:
    """Run steps over all columns.

    Args:
        session: Runs the graph.
        cache: Of the batch; it is advanced.
        input_ids_BS: The columns, left-padded.
        pads: Columns of left padding of every row.
        kept: The columns whose outputs are wanted, in order.
        chunk: The most columns of a step, where the session does not take fewer.

    Returns:
        In the order of the session's ``output_shapes``, each ``[B, K, …]``.
    """
    columns = input_ids_BS.shape[1]
    judged_from = cache.begin(columns, columns - kept[0] if kept else 0)
    chunk = min(chunk, session.longest_step or session.geometry.layout.max_length)
    input_ids = input_ids_BS.numpy()
    steps = []
    for start, stop in packing.split(columns, judged_from, chunk, cache.narrowest_window):
        if start == judged_from:
            cache.mark()
        cache.prepare(stop - start, pads)
        offsets = [stop - 1 - column for column in kept[bisect_left(kept, start) : bisect_left(kept, stop)]]
        steps.append(_step(session, cache, input_ids[:, start:stop], pads, offsets))
        cache.advance(stop - start)
    return steps[0] if len(steps) == 1 else tuple(torch.cat(parts, 1) for parts in zip(*steps, strict=True))


def _step(
    session: Session, cache: HybridCache, input_ids_BW: np.ndarray, pads: list[int], offsets: list[int]
) -> tuple[torch.Tensor, ...]:
    """One step of the batch, or one a row where rows cannot run together; each output ``[B, len(offsets), …]``."""
    first = cache.get_seq_length()
    steps: list[tuple[slice, Step]] = []
    if session.ragged_steps:
        together = packing.pack(input_ids_BW, first, pads, offsets)
    else:
        steps = list(dense_steps(input_ids_BW, first, pads, offsets))
        together = steps[0][1] if [rows for rows, _ in steps] == [slice(0, len(pads))] else None
    if together is not None:
        found = session.step(together, cache.buffers, cache.cancellation)
        return tuple([as_tensor(output, session.output_dtype) for output in found])
    dtype = torch_dtype(session.output_dtype)
    outputs = tuple(
        torch.zeros(len(pads), len(offsets), *shape, dtype=dtype, device=session.geometry.device)
        for shape in session.output_shapes.values()
    )
    for rows, step in steps:
        found = session.step(step, cache.buffers.row(rows.start), cache.cancellation)
        for output, part in zip(outputs, found, strict=True):
            output[rows] = as_tensor(part, session.output_dtype)
    return outputs
