"""One step over some slots, whose rows of the cache follow each other.

Legend: B slots of the step, W tokens of each, K positions whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from exaone_export.errors import CancelledError

from ..buffers import CacheBuffers
from ..cancellation import Cancellation
from ..session import Session
from ..steps import Step

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["run_step"]


def run_step(
    session: Session,
    slots: Sequence[Slot],
    tokens_BW: Sequence[Sequence[int]],
    buffers: CacheBuffers,
    cancellation: Cancellation,
    judged: int = 1,
) -> np.ndarray:
    """Append tokens to slots, and give the logits ``[B, K, V]`` behind the last ``judged`` of each.

    Args:
        session: Runs the graph.
        slots: In the order of their rows.
        tokens_BW: Of each slot.
        buffers: The slots' rows, and no others.
        cancellation: Checked before the step; it can end it.
        judged: Where it is more than one, all tokens but the first are guesses, and `Slot.take_back` follows.

    Raises:
        CancelledError: The step was cancelled; nothing was appended.
        Exception: The step failed. The slots are empty, since what it has left is not known.
    """
    cancellation.check()  # before anything is prepared that an ended step would leave unfinished
    before, width = [len(slot.tokens) for slot in slots], len(tokens_BW[0])
    step = Step(np.array(tokens_BW, np.int64), before, [width] * len(slots), range(judged - 1, -1, -1))
    try:
        for slot in slots:
            slot.prepare(width, is_trial=judged > 1)
        logits_BKV = session.step(step, buffers, cancellation)[0]
    except CancelledError:
        raise
    except BaseException:
        for slot in slots:
            slot.discard()
        raise
    for slot, tokens in zip(slots, tokens_BW, strict=True):
        slot.append(tokens)
    return session.geometry.memory.numbers(logits_BKV, session.output_dtype)
