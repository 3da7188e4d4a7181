"""From the left-padded batches of transformers to the dense steps of a graph.

Legend: B batch, S columns of a forward call, W columns of one step, P columns that the cache has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from exaone_export.errors import PromptError, UnsupportedOptionError

from ..core.steps import Step


def left_pads(attention_mask: torch.Tensor | None, rows: int, columns: int, known: Sequence[int]) -> list[int]:
    """Columns of left padding of every row of the batch.

    Args:
        attention_mask: ``[B, P + S]``, 0 for padding, or None for no padding.
        rows: B.
        columns: P + S.
        known: The padding that the cache was filled with; empty for an empty cache.

    Raises:
        PromptError: The mask has another shape, holes, padding on the right, an empty row, or disagrees with the cache.
        UnsupportedOptionError: The mask has more than two dimensions.
    """
    if attention_mask is None:
        if any(known):
            raise PromptError(
                "past_key_values holds a left-padded batch and attention_mask is missing; pass the mask of all "
                "columns, cached ones included."
            )
        return [0] * rows
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
        raise UnsupportedOptionError(
            "attention_mask must have two dimensions, [batch, columns]; pass the padding mask."
        )
    if attention_mask.shape != (rows, columns):
        raise PromptError(
            f"attention_mask has shape {list(attention_mask.shape)} and must have {[rows, columns]}: one column for "
            f"every column of past_key_values and of input_ids."
        )
    if not any(known) and attention_mask.all():  # every token of an answer comes this way
        return [0] * rows
    mask = attention_mask != 0
    pads_B = columns - mask.sum(1)
    if not torch.equal(mask, torch.arange(columns) >= pads_B[:, None]):
        raise PromptError(
            "attention_mask has a 0 behind a 1, and rows can only be padded on the left; set padding_side='left' on "
            "the tokenizer."
        )
    pads: list[int] = pads_B.tolist()
    if columns in pads:
        raise PromptError(f"row {pads.index(columns)} of the batch holds no token; give every row at least one.")
    if known and pads != list(known):
        raise PromptError(
            f"attention_mask pads the rows by {pads} columns, but past_key_values was filled with {list(known)}; pass "
            f"the mask that the cache was filled with, with a 1 for every new column."
        )
    return pads


def padded_left(
    tokens_BS: torch.Tensor, attention_mask: Any, position_ids: Any, wanted: int | torch.Tensor
) -> tuple[torch.Tensor, Any, Any, int | torch.Tensor]:
    """Move the padding on the right of a call's rows to their left; the call begins on an empty cache.

    Rotary embeddings see differences of positions only, and no token sees the padding, so the answer is the same.

    Args:
        tokens_BS: The columns.
        attention_mask: ``[B, S]``; anything else is left as it is, to be judged as padding on the left.
        position_ids: ``[B, S]`` or ``[1, S]``, or None.
        wanted: The number of last columns that are wanted, 0 for all, or their indices ``[K]`` or ``[B, K]``.

    Returns:
        The four for the moved columns; ``wanted`` as indices ``[B, K]`` if anything was moved.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != tokens_BS.shape:
        return tokens_BS, attention_mask, position_ids, wanted
    rows, columns = tokens_BS.shape
    moved_B1 = (attention_mask != 0).flip(1).long().argmax(1, keepdim=True)
    if not moved_B1.any():
        return tokens_BS, attention_mask, position_ids, wanted
    columns_S = torch.arange(columns)
    source_BS = (columns_S - moved_B1) % columns
    if isinstance(position_ids, torch.Tensor) and position_ids.shape in ((1, columns), (rows, columns)):
        position_ids = position_ids.expand(rows, -1).gather(1, source_BS)
    kept = columns_S[-wanted:] if isinstance(wanted, int) else wanted.cpu()
    moved = tokens_BS.gather(1, source_BS), attention_mask.gather(1, source_BS)
    return *moved, position_ids, (kept % columns + moved_B1) % columns


def check_positions(position_ids: torch.Tensor | None, shape: tuple[int, int], past: int, pads: Sequence[int]) -> None:
    """Refuse positions that are not those of the tokens, counted with or without the padding.

    Rotary embeddings see differences only, so both ways of counting give the same answer.

    Args:
        position_ids: ``[B, S]`` or ``[1, S]``, or None.
        shape: B and S.
        past: P.
        pads: Columns of left padding of every row.

    Raises:
        UnsupportedOptionError: The positions are others.
    """
    if position_ids is None:
        return
    if shape[1] == 1 and position_ids.ndim == 2:
        given = position_ids.flatten().tolist()
        rows = given if len(given) == len(pads) else given * len(pads)
        if rows == [past - pad for pad in pads] or rows == [past] * len(pads):
            return
    elif position_ids.ndim == 2 and position_ids.shape[1] == shape[1] and position_ids.shape[0] in (1, shape[0]):
        columns_S = past + torch.arange(shape[1])
        dense_BS = columns_S - torch.tensor(pads)[:, None]
        padding_BS = dense_BS < 0
        if any(bool(((position_ids == right) | padding_BS).all()) for right in (dense_BS, columns_S)):
            return
    raise UnsupportedOptionError(
        "position_ids must count a row's tokens one by one from its first; omit them, they follow from the mask."
    )


def split(columns: int, judged_from: int, chunk: int, short_chunk: int) -> Iterator[tuple[int, int]]:
    """Cut ``columns`` into steps.

    Args:
        columns: S.
        judged_from: The column from which steps must be short; every step ends before it or begins at it or later.
        chunk: The longest step.
        short_chunk: The longest step from ``judged_from`` on.

    Yields:
        First column, and the column after the last.
    """
    start = 0
    while start < columns:
        stop = min(start + chunk, judged_from) if start < judged_from else min(start + min(chunk, short_chunk), columns)
        yield start, stop
        start = stop


def pack(input_ids_BW: np.ndarray, first: int, pads: Sequence[int], kept: Sequence[int] = (0,)) -> Step | None:
    """Make columns dense.

    A row that holds nothing after the step is given one token all the same, since no runtime takes an empty row; the
    cache does not count it, and the next step writes over it.

    Args:
        input_ids_BW: The columns, left-padded.
        first: Index of the first of them in the whole batch, P included.
        pads: Columns of left padding of every row.
        kept: The columns whose outputs are wanted, counted back from the last one.

    Returns:
        None if there is nothing but padding.
    """
    width = input_ids_BW.shape[1]
    before = [max(first - pad, 0) for pad in pads]
    if max(pads) <= first:  # every token of an answer comes this way
        return Step(input_ids_BW, before, [width] * len(pads), kept)
    if min(pads) >= first + width:
        return None
    skipped = [min(max(pad - first, 0), width) for pad in pads]
    counts = [max(width - skip, 0 if old else 1) for skip, old in zip(skipped, before, strict=True)]
    source_BW = np.minimum(np.arange(width) + np.array(skipped)[:, None], width - 1)
    return Step(np.take_along_axis(input_ids_BW, source_BW, 1), before, counts, kept)
