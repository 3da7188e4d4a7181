"""The inputs of a graph's first step, for programs that run a graph without this package's sessions."""

from __future__ import annotations

import numpy as np


def first_step(input_ids_BS: np.ndarray) -> dict[str, np.ndarray]:
    """Prompts of one length as one step over empty caches, the logits of every position wanted.

    The caches are not among the inputs that are returned: a first step does not read them.

    Args:
        input_ids_BS: ``[B, S]`` token ids.

    Returns:
        ``input_ids``, ``attention_mask`` and ``position_ids`` ``[B, S]``, and ``logits_to_keep`` ``[S]``, which counts
        back from the last token, so that the logits come in the tokens' order; all int64.
    """
    steps_S = np.arange(input_ids_BS.shape[1])
    return {
        "input_ids": input_ids_BS.astype(np.int64),
        "attention_mask": np.ones(input_ids_BS.shape, np.int64),
        "position_ids": np.tile(steps_S, (len(input_ids_BS), 1)),
        "logits_to_keep": steps_S[::-1].copy(),
    }
