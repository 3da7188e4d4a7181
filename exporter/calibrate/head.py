"""The vocabulary projection, rounded to int4 by its inputs: the last layer's output after the final norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from exaone_export.calibration.gptq import gptq
from exaone_export.calibration.number_formats import FORMATS
from exaone_export.model.tensors import FINAL_NORM, vocabulary_weight, weight_table
from exaone_export.targets.recipe import Recipe

from ..checkpoint.checkpoint import Checkpoint
from ..quantize.packed_int4 import pack_int4
from .scales.layout import HEAD_SCALE, HEAD_VALUES, SCALE_TYPE

__all__ = ["round_head"]

_ROWS = 8192


def round_head(
    checkpoint: Checkpoint, hidden: Sequence[torch.Tensor], *, signed_scales: bool
) -> dict[str, torch.Tensor]:
    """Round some rows at a time, since rows are independent of each other.

    Args:
        checkpoint: The model.
        hidden: Outputs of the last layer, ``[B, S, hidden_size]`` float32 each.
        signed_scales: Whether scales may be negative.

    Returns:
        Values and scales under their names in a scales file.
    """
    spec, table = checkpoint.spec, weight_table(checkpoint.spec)
    block = Recipe.plan(spec, "int4", "float32").blocks["qkv"]
    norm = checkpoint.read(table[FINAL_NORM].names[0]).float()
    moment, vectors = torch.zeros(spec.hidden_size, spec.hidden_size), 0
    for states in hidden:
        normal = torch.nn.functional.rms_norm(states, norm.shape, norm, spec.rms_norm_eps).flatten(0, 1)
        moment += normal.T @ normal
        vectors += len(normal)
    weight = checkpoint.read(table[vocabulary_weight(spec)].names[0])
    values = torch.empty(spec.vocab_size, spec.hidden_size // 2, dtype=torch.int8)
    scale = torch.empty(spec.vocab_size, spec.hidden_size // block, dtype=SCALE_TYPE)
    for start in range(0, spec.vocab_size, _ROWS):
        rows = slice(start, start + _ROWS)
        found = gptq(
            weight[rows].float(),
            moment / vectors,
            FORMATS["int4"],
            block=block,
            scale_dtype=SCALE_TYPE,
            signed_scale=signed_scales,
        )
        values[rows], scale[rows] = pack_int4(found.values), found.scale
    return {HEAD_VALUES: values, HEAD_SCALE: scale}
