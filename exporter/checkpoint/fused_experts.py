"""Experts that a checkpoint holds in one tensor for all of them, told apart.

transformers runs them so, and saves a tensor for each; what is saved otherwise may be either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from exaone_export.model.expert_tensors import fused_name
from exaone_export.model.spec import ModelSpec
from exaone_export.model.tensors import weight_table

from .safetensors_file import TensorInfo

__all__ = ["apart"]


def apart(found: Mapping[str, TensorInfo], spec: ModelSpec) -> dict[str, TensorInfo]:
    """The tensors with every one of a stack of experts as those of the experts.

    A part lies in the file where the whole has it, row behind row, so that nothing is copied; one of another shape than
    the config's is left as it is, and refused as a tensor that the config has no place for.
    """
    tensors = dict(found)
    for weight in weight_table(spec).values():
        if not weight.experts or (whole := tensors.get(fused_name(weight))) is None:
            continue
        shapes = [source.shape for source in weight.each[0].sources]
        if whole.shape != (weight.experts, sum(rows for rows, _ in shapes), shapes[0][1]):
            continue
        del tensors[fused_name(weight)]
        start, item = whole.offset, whole.num_bytes // math.prod(whole.shape)
        for source in weight.sources:
            tensors[source.name] = replace(whole, shape=source.shape, offset=start)
            start += math.prod(source.shape) * item
    return tensors
