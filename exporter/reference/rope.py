"""Cosines and sines of the rotary position embedding, with a checkpoint's scaling."""

from __future__ import annotations

import threading

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from exaone_export.model.spec import ModelSpec
from exaone_export.runtime.mirror.config import transformers_config

# Two threads whose first cosine in a process falls together may get one that is off by 1.5e-4: PyTorch takes it from
# MKL, which chooses its kernel, and how exact it is, on the first call.
_ONE_AT_A_TIME = threading.Lock()


def rope_tables(spec: ModelSpec, max_length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine for positions ``[0, max_length)``, each ``[max_length, head_dim / 2]`` float32.

    The scaled frequencies are `transformers`' own, so that every published scaling means here what it means there.
    """
    config = transformers_config(spec)
    if spec.rope.rope_type == "default":
        exponent = torch.arange(0, spec.head_dim, 2, dtype=torch.int64).float() / spec.head_dim
        frequencies, factor = 1.0 / (spec.rope.theta**exponent), 1.0
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[spec.rope.rope_type](config, torch.device("cpu"))
    angles = torch.arange(max_length, dtype=torch.float32)[:, None] * frequencies.float()
    with _ONE_AT_A_TIME:
        return angles.cos() * factor, angles.sin() * factor
