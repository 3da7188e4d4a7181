"""Prompts for Polygraphy to run an exported graph on.

    polygraphy run ARTIFACT/model.onnx --onnxrt --data-loader-script examples/polygraphy_inputs.py:Prompts

Polygraphy's own random inputs are no prompts: a mask, positions and tokens that are drawn apart from one another do not
agree on how long a row is. Here they do, for the graph of any target and for an engine that was built from one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from exaone_export.runtime.parity.first_step import first_step
from exaone_export.targets.cache_layout import PAST

# Rows and tokens of each batch. No row is padded, so every element of every output is specified, the caches' aside.
BATCHES = ((1, 24), (2, 40))
# Token ids that every EXAONE vocabulary has.
VOCABULARY = 256

ROWS = 256
"""Of a cache that holds as many tokens as its caller wants: no fewer than a prompt has."""


class Prompts:
    """Random prompts over empty caches, one iteration a batch; every pass over them gives the same.

    Attributes:
        input_metadata: Name, type and shape of the graph's inputs; Polygraphy sets it before the first iteration.
    """

    input_metadata: Any = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(0)
        for batch in BATCHES:
            step: dict[str, Any] = {**first_step(rng.integers(VOCABULARY, size=batch))}
            # Polygraphy hands over no input that has a default, which is this: the logits of the last token.
            step["logits_to_keep"] = np.zeros(1, np.int64)
            for name, (dtype, shape) in self.input_metadata.items():
                if name.startswith(PAST):
                    rows = [
                        size if isinstance(size, int) else ROWS for size in shape[1:]
                    ]  # where the caller chooses them
                    step[name] = _empty((batch[0], *rows), dtype)
            yield step


def _empty(shape: tuple[int, ...], dtype: Any) -> Any:
    if str(dtype) != "bfloat16":
        return np.zeros(shape, dtype.numpy())
    import torch  # NumPy has no bfloat16

    return torch.zeros(shape, dtype=torch.bfloat16)
